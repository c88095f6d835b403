"""Whether a replica is given requests. Pure; `now_s` is a monotonic clock.

closed     it is; FAILURES in a row, or one that leaves no doubt, open it
open       it is not, for a while that doubles until a request of a client's goes well
half-open  one request of our own is tried: it closes the breaker, or opens it for longer
"""

from collections.abc import Callable
from typing import Final, Literal

State = Literal["closed", "open", "half-open"]

FAILURES: Final = 3
FIRST_S: Final = 1.0
LONGEST_S: Final = 30.0


class Breaker:
    """That of one replica. It begins closed."""

    __slots__ = ("_now_s", "_wait_s", "failures", "opened_s", "openings", "reason", "retry_s", "state")

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self.failures = 0
        """In a row."""
        self._wait_s = 0.0
        self.state: State = "closed"
        self.reason = ""
        """Why it was opened last."""
        self.opened_s: float | None = None
        """Since when it is not closed."""
        self.retry_s = 0.0
        """When it may be tried again."""
        self.openings = 0

    @property
    def is_closed(self) -> bool:
        return self.state == "closed"

    def succeeded(self) -> None:
        """A request of a client's went well."""
        self.failures = 0
        self._wait_s = 0.0

    def failed(self, reason: str) -> bool:
        """One did not; whether that has opened it."""
        self.failures += 1
        if self.is_closed and self.failures >= FAILURES:
            self.open(reason)
            return True
        return False

    def open(self, reason: str) -> None:
        """Give it nothing for a while."""
        self._wait_s = min(LONGEST_S, max(FIRST_S, 2 * self._wait_s))
        if self.is_closed:
            self.openings += 1
            self.opened_s = self._now_s()
        self.reason = reason
        self.state = "open"
        self.retry_s = self._now_s() + self._wait_s

    def half_open(self) -> None:
        """The one request is under way."""
        self.state = "half-open"

    def close(self) -> None:
        """It answers us again. Whether it answers clients is yet to be seen."""
        self.state, self.opened_s, self.failures = "closed", None, 0
