"""Guesses that are no guesses: what a grammar leaves no choice about, or what is said for the model."""

from collections.abc import Callable, Mapping

from corral.engine.local.drafts.proposer import BEST
from corral.engine.local.drafts.room import DraftRoom, Offer
from corral.engine.local.lane import Lane


class ForcedRuns:
    """A Proposer: `certain` says which tokens must come next in a lane, one after the other."""

    def __init__(self, certain: Callable[[Lane], list[int]]) -> None:
        self._certain = certain

    def propose(self, wants: Mapping[Lane, int], room: DraftRoom) -> dict[Lane, list[int]]:
        runs = {lane: run[:limit] for lane, limit in wants.items() if (run := self._certain(lane))}
        if not runs:
            return {}
        lengths = room.share(Offer(lane, BEST, len(run)) for lane, run in runs.items())
        return {lane: runs[lane][:length] for lane, length in lengths.items()}

    def observe(self, lane: Lane, drafted: int, accepted: int) -> None:
        """There is nothing to learn."""

    def forget(self, lane: Lane) -> None:
        """Nothing is kept."""
