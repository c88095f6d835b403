"""Which models may be in memory within a bound, and which have to leave for one that is wanted.

A model *claims* its size before it is loaded. What is claimed never exceeds the bound. One that has to leave
gives its claim up at once, and is *going* until its memory is free: until then whoever has claimed waits, so
that what is claimed and what is going together never lie in memory beyond the bound either.

Synchronous, no clock, no task: "least recently used" is the order in which they were said to be used.
"""

from collections.abc import Callable


class Room:
    """Of `limit_bytes`. Models are known by their names, and each is of one size."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._claimed: dict[str, int] = {}
        """The least recently used first."""
        self._going: list[tuple[str, int]] = []
        """A name may be there twice: one that left, came again and failed before its memory was free."""

    @property
    def claimed(self) -> tuple[str, ...]:
        """Who has a claim, the least recently used first."""
        return tuple(self._claimed)

    @property
    def claimed_bytes(self) -> int:
        return sum(self._claimed.values())

    @property
    def held_bytes(self) -> int:
        """What is claimed, and what is not free yet."""
        return self.claimed_bytes + sum(size_bytes for _, size_bytes in self._going)

    def used(self, name: str) -> None:
        """It is wanted now; of one without a claim that means nothing."""
        if (size_bytes := self._claimed.pop(name, None)) is not None:
            self._claimed[name] = size_bytes

    def leaving_for(self, size_bytes: int, may_leave: Callable[[str], bool]) -> tuple[str, ...] | None:
        """Who has to leave for so much more, the least recently used first; None if it cannot be had.

        Nobody of whom `may_leave` is false.
        """
        missing = self.claimed_bytes + size_bytes - self.limit_bytes
        leaving: list[str] = []
        for name, theirs in self._claimed.items():
            if missing <= 0:
                break
            if may_leave(name):
                leaving.append(name)
                missing -= theirs
        return tuple(leaving) if missing <= 0 else None

    def claim(self, name: str, size_bytes: int) -> None:
        """It will be there; those of `leaving_for` have gone or are going, and it has no claim yet."""
        assert name not in self._claimed, f"{name} is there already"
        assert self.claimed_bytes + size_bytes <= self.limit_bytes, "there is no room"
        self._claimed[name] = size_bytes

    def going(self, name: str) -> None:
        """It leaves, or will not come: its claim is free, its memory is not yet."""
        self._going.append((name, self._claimed.pop(name)))

    def gone(self, name: str) -> None:
        """Its memory is free, as often as it was going."""
        self._going.remove(next(going for going in self._going if going[0] == name))

    def may_come(self, name: str) -> bool:
        """Whether one with a claim can be loaded now: all that had to leave before is gone."""
        is_going = any(going == name for going, _ in self._going)
        return not is_going and self.held_bytes <= self.limit_bytes
