"""Guesses of what comes next by what a lane said before: prompt lookup (Saxena 2023).

Where the last few tokens occurred before, what followed then may follow now. Of several such places the one
with the longest match is taken. To guess so costs nothing, but a wrong guess makes a wider step for nothing:
drafts/room.py says how long a draft may be, by the chance that is learned from the lane's own drafts. Where
they fail it falls until only a long match is followed any more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from corral.engine.local.drafts.proposer import BEST, Chance
from corral.engine.local.drafts.room import DraftRoom, Offer
from corral.engine.local.lane import Lane

KEY_TOKENS = 3  # tokens that must match before a place is looked at
PLACES = 8  # the last places of a key that are compared
LONG_MATCH_TOKENS = 8  # such a match is right more often,
LONG_MATCH_FAILURE = 0.6  # by so much less often wrong
MOST_MATCH_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Match:
    """What followed at `place` may follow now; the first token of it with `chance`, as each after it."""

    place: int
    chance: float


class Lookup:
    """Looks in one text. `tokens` is the caller's list, which only grows between calls."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.chance = Chance()
        self._tokens = tokens
        self._ends: dict[tuple[int, ...], tuple[int, ...]] = {}
        """Where each run of KEY_TOKENS tokens ended the last PLACES times, but for the newest. Most occur
        once: a tuple of one takes a tenth of what a deque does."""
        self._indexed = KEY_TOKENS

    def match(self) -> Match | None:
        """The best place to go on from; often none."""
        self._index()
        tokens = self._tokens
        places = self._ends.get(tuple(tokens[-KEY_TOKENS:]))
        if places is None:
            return None
        length, place = max((self._match_tokens(place), place) for place in places)
        chance = self.chance.value
        if length >= LONG_MATCH_TOKENS:
            chance = 1 - LONG_MATCH_FAILURE * (1 - chance)
        return Match(place, min(chance, BEST))

    def draft(self, place: int, length: int) -> list[int]:
        """What followed at a place; a text that repeats itself goes on as the draft began."""
        draft = list(self._tokens[place : place + length])
        while len(draft) < length:
            draft += draft[: length - len(draft)]
        return draft

    def _index(self) -> None:
        tokens, size = self._tokens, len(self._tokens)
        ends = self._ends
        for end in range(self._indexed, size):
            key = tuple(tokens[end - KEY_TOKENS : end])
            places = ends.get(key)
            ends[key] = (end,) if places is None else (*places[1 - PLACES :], end)
        self._indexed = max(self._indexed, size)

    def _match_tokens(self, place: int) -> int:
        """How many tokens before `place` are the text's last ones."""
        tokens, size = self._tokens, len(self._tokens)
        length = KEY_TOKENS
        while (
            length < min(MOST_MATCH_TOKENS, place) and tokens[place - length - 1] == tokens[size - length - 1]
        ):
            length += 1
        return length


class PromptLookup:
    """A Proposer: a Lookup for each lane."""

    def __init__(self) -> None:
        self._lookups: dict[Lane, Lookup] = {}

    def propose(self, wants: Mapping[Lane, int], room: DraftRoom) -> dict[Lane, list[int]]:
        offers: list[Offer] = []
        places: dict[Lane, int] = {}
        for lane, limit in wants.items():
            lookup = self._lookups.get(lane)
            if lookup is None:
                lookup = self._lookups[lane] = Lookup(lane.tokens)
            match = lookup.match()
            if match is not None:
                offers.append(Offer(lane, match.chance, limit))
                places[lane] = match.place
        if not offers:
            return {}
        lengths = room.share(offers)
        return {lane: self._lookups[lane].draft(places[lane], length) for lane, length in lengths.items()}

    def observe(self, lane: Lane, drafted: int, accepted: int) -> None:
        self._lookups[lane].chance.observe(drafted, accepted)

    def forget(self, lane: Lane) -> None:
        self._lookups.pop(lane, None)
