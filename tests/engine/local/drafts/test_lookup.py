"""Prompt lookup by itself: where it looks, how much it dares, and when it stops."""

import random
from collections.abc import Sequence

from tests.engine.local.drive import FixedCosts

from corral.engine.local.drafts.lookup import LONG_MATCH_TOKENS, PLACES, Lookup, PromptLookup
from corral.engine.local.drafts.room import DraftRoom
from corral.engine.local.lane import Lane


class Reader:
    """A lane alone in its steps, with a lookup that learns."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.lane = Lane.of(0, tokens)
        self.lookup = PromptLookup()

    def propose(self, limit: int) -> list[int]:
        room = DraftRoom(FixedCosts(), lanes=1, depth=0, most_rows=16)
        return self.lookup.propose({self.lane: limit}, room).get(self.lane, [])

    def observe(self, drafted: int, accepted: int) -> None:
        self.propose(1)
        self.lookup.observe(self.lane, drafted, accepted)


REPEATS = [*range(100), 50, 51, 52]


def test_what_followed_the_longest_match_is_proposed_not_what_followed_the_last() -> None:
    tokens = [1, 2, 3, 4, 5, 60, 61, 9, 3, 4, 5, 70, 71, 1, 2, 3, 4, 5]
    assert Reader(tokens).propose(2) == [60, 61]


def test_nothing_is_proposed_without_a_match() -> None:
    assert Reader([1, 2]).propose(8) == []
    assert Reader(list(range(50))).propose(8) == []
    assert Reader([1, 2, 3, 9, 7, 2, 3]).propose(8) == [], "two tokens are no match"


def test_a_draft_grows_with_success_up_to_what_a_step_may_carry() -> None:
    reader = Reader(REPEATS)
    sizes = []
    for _ in range(12):
        draft = reader.propose(100)
        sizes.append(len(draft))
        reader.observe(len(draft), len(draft))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == 15
    assert len(reader.propose(3)) == 3


def test_only_the_last_places_of_what_occurs_often_are_known() -> None:
    """The longest match is of the first time, which is forgotten by now."""
    long = [50, 51, 52, 53, 54, 1, 2, 3]
    others = [token for n in range(PLACES) for token in (100 + n, 1, 2, 3)]
    assert (match := Lookup([*long, 77, *others, 9, *long]).match()) is not None
    assert match.place > len(long)
    assert (match := Lookup([*long, 77, *others[4:], 9, *long]).match()) is not None
    assert match.place == len(long)


def test_a_text_that_repeats_itself_is_drafted_past_its_own_end() -> None:
    lookup = Lookup([9, *[1, 2, 3, 4] * 4])
    match = lookup.match()
    assert match is not None
    assert lookup.draft(match.place, 11) == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3]


def test_one_lane_s_failures_are_not_another_s() -> None:
    sure, unsure = Reader(REPEATS), Reader(REPEATS)
    for _ in range(4):
        sure.observe(4, 4)
        unsure.observe(4, 1)
    assert len(sure.propose(15)) == 15
    assert len(unsure.propose(15)) == 1


def test_after_failures_only_a_long_match_is_followed() -> None:
    short, long = Reader(REPEATS), Reader([*range(100), *range(50, 60)])
    assert LONG_MATCH_TOKENS <= 10
    for reader in (short, long):
        for _ in range(10):
            reader.observe(4, 0)
    assert short.propose(8) == []
    assert long.propose(8) == [60]


def test_random_text_is_given_up_soon() -> None:
    """A step in which a draft failed is a step wasted in part: over 2,000 tokens there must be few."""
    source = random.Random(1)
    reader = Reader([source.randrange(4) for _ in range(50)])
    drafted = 0
    for _ in range(2000):
        token = source.randrange(4)
        if draft := reader.propose(8):
            drafted += len(draft)
            reader.observe(len(draft), int(draft[0] == token))
        reader.lane.tokens.append(token)
    assert drafted < 100


def test_a_lane_that_comes_back_begins_anew() -> None:
    reader = Reader(REPEATS)
    for _ in range(10):
        reader.observe(4, 0)
    reader.lookup.forget(reader.lane)
    assert len(reader.propose(8)) > 1
