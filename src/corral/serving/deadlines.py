"""Ends what takes too long: one task for all requests, since all have the same time."""

from collections.abc import Callable
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Deadlines(Generic[T]):
    """Calls `passed(item)` for every item that is still there `deadline_s` after it was added."""

    def __init__(self, deadline_s: float, passed: Callable[[T], None]) -> None:
        self._deadline_s = deadline_s
        self._passed = passed
        self._due: dict[T, float] = {}  # in the order of adding, and so of falling due
        self._added = trio.Event()

    def add(self, item: T) -> None:
        self._due[item] = trio.current_time() + self._deadline_s
        self._added.set()

    def remove(self, item: T) -> None:
        """Harmless if its time has passed already."""
        self._due.pop(item, None)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            if not self._due:
                self._added = trio.Event()
                await self._added.wait()
                continue
            item, due_s = next(iter(self._due.items()))
            await trio.sleep_until(due_s)
            if item in self._due:
                del self._due[item]
                self._passed(item)
