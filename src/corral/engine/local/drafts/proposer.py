"""What guesses the next tokens of a lane, and how sure it may be of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from corral.engine.local.drafts.room import DraftRoom
from corral.engine.local.lane import Lane

LEAST, BEST = 0.2, 0.97  # chances, however drafts fare
FEW_LANES = 4  # it takes less to look for a guess than to ask whether one could pay
RIGHT_WEIGHT, WRONG_WEIGHT = 0.15, 0.1  # of one token, in the moving average


class Proposer(Protocol):
    """Guesses for several lanes at once. Not thread-safe; what it guesses never changes what is said."""

    def propose(self, wants: Mapping[Lane, int], room: DraftRoom) -> dict[Lane, list[int]]:
        """Drafts of at most so many tokens for each lane, none where they do not pay. Never raises.

        `room` is asked what pays, and told of each draft.
        """
        ...

    def observe(self, lane: Lane, drafted: int, accepted: int) -> None:
        """Learn from a draft of its own that was verified: the first `accepted` of its tokens were right."""
        ...

    def forget(self, lane: Lane) -> None:
        """The lane runs no more; harmless if it is not known. Never raises."""
        ...


@dataclass(slots=True)
class Chance:
    """That a drafted token is right if all before it are, as a lane's own drafts have it."""

    value: float = 0.85

    def observe(self, drafted: int, accepted: int) -> None:
        """Of a draft, the first `accepted` tokens were right."""
        for _ in range(accepted):
            self.value += RIGHT_WEIGHT * (1 - self.value)
        if accepted < drafted:
            self.value = max(LEAST, (1 - WRONG_WEIGHT) * self.value)
