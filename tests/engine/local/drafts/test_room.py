"""How long drafts may be, by costs as they are in the seed and by others."""

from dataclasses import replace

import pytest
from tests.engine.local.drive import FixedCosts

from corral.engine.local.costs import SEED
from corral.engine.local.drafts.proposer import Chance
from corral.engine.local.drafts.room import DraftRoom, Offer, gain
from corral.engine.local.lane import Lane


def room(lanes: int, *, most_rows: int = 512, depth: float = 100) -> DraftRoom:
    return DraftRoom(FixedCosts(), lanes=lanes, depth=depth, most_rows=most_rows)


def lengths(room: DraftRoom, *chances: float, limit: int = 100, guess_ms: float = 0.0) -> list[int]:
    """How long the drafts of lanes with these chances become, in their order."""
    offers = [Offer(Lane.of(key, [1]), chance, limit) for key, chance in enumerate(chances)]
    shared = room.share(offers, guess_ms)
    return [shared.get(offer.lane, 0) for offer in offers]


def test_a_draft_is_as_long_as_pays_best() -> None:
    found = [lengths(room(1), chance)[0] for chance in (0.3, 0.6, 0.8, 0.9, 0.97)]
    assert found == sorted(found)
    assert found[0] == 0
    assert found[-1] >= 15


def test_kernels_compute_whole_tiles_so_a_draft_fills_one_or_stays_below_it() -> None:
    assert lengths(room(1), 0.9, limit=7) == [7]
    assert lengths(room(1), 0.9, limit=4) == [3], "five rows cost as much as eight"


def test_beside_others_only_what_is_likely_enough_pays() -> None:
    assert lengths(room(4), 0.6) == [0]
    assert lengths(room(4), 0.95)[0] >= 4
    assert lengths(room(8), 0.85) == [0]


def test_lanes_that_are_as_sure_as_each_other_draft_alike() -> None:
    one, other = lengths(room(2), 0.9, 0.9)
    assert one == other > 0


def test_who_is_less_likely_to_be_right_is_left_out() -> None:
    unsure, sure = lengths(room(2), 0.3, 0.95)
    assert unsure == 0 < sure


def test_many_that_are_unsure_may_pay_where_one_of_them_would_not() -> None:
    assert lengths(room(8), 0.85) == [0]
    assert len(set(lengths(room(8), *[0.85] * 8)) - {0}) == 1


def test_a_step_has_no_more_rows_than_it_may_have() -> None:
    assert lengths(room(4, most_rows=11), 0.97) == [4]
    assert sum(lengths(room(4, most_rows=12), *[0.97] * 4)) == 8
    assert lengths(room(4, most_rows=4), 0.97) == [0]


def test_what_is_taken_the_next_ones_do_not_have() -> None:
    shared = room(2, most_rows=12)
    assert lengths(shared, 0.97, limit=6) == [6]
    assert lengths(shared, 0.97) == [4], "eight of twelve rows are taken"
    assert lengths(shared, 0.97) == [0]


def test_where_nothing_would_fit_nobody_need_look_for_a_guess() -> None:
    assert room(1).fits(0.97, 1)
    assert not room(1).fits(0.2, 1)
    assert not room(4, most_rows=4).fits(0.97, 4)


def test_in_deep_contexts_drafts_are_shorter_since_each_row_looks_at_all_of_it() -> None:
    assert lengths(room(1, depth=8000), 0.85) < lengths(room(1, depth=0), 0.85)


def test_a_draft_that_has_to_be_computed_is_shorter_than_one_that_was_found() -> None:
    costs = FixedCosts(replace(SEED, unit_ms=10))

    def drafted(guess_ms: float) -> int:
        room = DraftRoom(costs, lanes=1, depth=0, most_rows=512)
        return lengths(room, 0.85, guess_ms=guess_ms)[0]

    assert drafted(0) > drafted(2) > drafted(20) == 0


@pytest.mark.parametrize("chance", [0.2, 0.85, 0.97])
def test_the_tokens_to_be_expected_of_a_draft_are_those_of_a_chain(chance: float) -> None:
    assert gain(chance, 5) == pytest.approx(sum(chance**own for own in range(1, 6)))


def test_a_chance_rises_with_what_was_right_and_falls_with_what_was_wrong() -> None:
    chance = Chance()
    values = []
    for accepted in (4, 4, 1, 0, 0):
        chance.observe(4, accepted)
        values.append(chance.value)
    assert values[0] < values[1] > values[2] > values[3] > values[4]
