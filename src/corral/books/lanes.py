"""Slots numbered for people: the lowest free number goes to who begins, and comes back when it ends."""

import heapq


class Lanes:
    """There are as many as slots."""

    def __init__(self, slots: int) -> None:
        self._free = list(range(slots))

    def take(self, count: int) -> tuple[int, ...]:
        """The lowest free ones; the caller has seen to it that there are so many."""
        return tuple(heapq.heappop(self._free) for _ in range(count))

    def give(self, lanes: tuple[int, ...]) -> None:
        for lane in lanes:
            heapq.heappush(self._free, lane)
