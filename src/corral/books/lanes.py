"""Slots numbered for people: the lowest free number goes to who begins, and comes back when it ends."""

import heapq


class Lanes:
    """There are as many as were ever taken at a time."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._known = 0

    def take(self, count: int) -> tuple[int, ...]:
        """The lowest free ones."""
        while len(self._free) < count:
            heapq.heappush(self._free, self._known)
            self._known += 1
        return tuple(heapq.heappop(self._free) for _ in range(count))

    def give(self, lanes: tuple[int, ...]) -> None:
        for lane in lanes:
            heapq.heappush(self._free, lane)
