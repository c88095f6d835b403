"""So much at once, and so much per second for long: a token bucket that keeps one number."""

from dataclasses import dataclass

import trio


@dataclass(slots=True)
class Allowance:
    """Nothing here blocks or is a checkpoint."""

    at_once: float
    per_s: float
    _paid_at: float = float("-inf")
    """When all that was charged so far will have been earned."""

    @property
    def owed_s(self) -> float:
        """How long until all that was charged has been earned: then `at_once` may be taken again."""
        return max(0.0, self._paid_at - trio.current_time())

    def charge(self, amount: float = 1.0) -> float:
        """Take `amount`; returns for how many seconds this is too much, 0.0 if it is within the allowance."""
        now = trio.current_time()
        self._paid_at = max(self._paid_at, now) + amount / self.per_s
        return max(0.0, self._paid_at - now - self.at_once / self.per_s)

    def earn(self, amount: float) -> None:
        """Give `amount` back; no more than `at_once` is ever kept."""
        self._paid_at -= amount / self.per_s
