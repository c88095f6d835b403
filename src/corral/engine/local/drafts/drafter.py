"""Drafts for the lanes of a step, by whoever guesses them: the cheapest first."""

from collections.abc import Mapping, Sequence

from corral.engine.local.costs import Costs
from corral.engine.local.drafts.proposer import BEST, FEW_LANES, Proposer
from corral.engine.local.drafts.room import MOST_OFFERS, DraftRoom
from corral.engine.local.lane import Lane


class Drafter:
    """Asks `proposers` in their order, for steps of at most `most_rows`. Not thread-safe."""

    def __init__(self, proposers: Sequence[Proposer], costs: Costs, *, most_rows: int) -> None:
        self._proposers = tuple(proposers)
        self._costs = costs
        self._most_rows = most_rows
        self._authors: dict[Lane, Proposer] = {}
        """Whose the drafts of the last step are."""

    def can_pay(self, lanes: int, depth: float) -> bool:
        """Whether guesses could pay in a step of so many lanes, each of which looks at `depth` cells."""
        if not (self._proposers and lanes):
            return False
        return lanes <= FEW_LANES or self._room(lanes, depth).fits(BEST, min(lanes, MOST_OFFERS))

    def propose(self, wants: Mapping[Lane, int], depth: float) -> dict[Lane, list[int]]:
        """Drafts for lanes that decode, of at most so many tokens each; together as many as pay.

        All lanes of the step are in `wants`, and look at `depth` cells.
        """
        self._authors = {}
        drafts: dict[Lane, list[int]] = {}
        if not (self._proposers and wants):
            return drafts
        room = self._room(len(wants), depth)
        left = {lane: limit for lane, limit in wants.items() if limit > 0}
        for proposer in self._proposers:
            found = proposer.propose(left, room)
            for lane in found:
                self._authors[lane] = proposer
                del left[lane]
            drafts |= found
        return drafts

    def _room(self, lanes: int, depth: float) -> DraftRoom:
        return DraftRoom(self._costs, lanes=lanes, depth=depth, most_rows=self._most_rows)

    def observe(self, lane: Lane, drafted: int, accepted: int) -> None:
        """The draft of the last step was verified: its first `accepted` tokens were right."""
        self._authors[lane].observe(lane, drafted, accepted)

    def forget(self, lane: Lane) -> None:
        """The lane runs no more."""
        self._authors.pop(lane, None)
        for proposer in self._proposers:
            proposer.forget(lane)
