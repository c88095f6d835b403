"""Whose turn is next: one item of each client after the other, however many a client has waiting."""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Turns(Generic[Item]):
    """Items that wait, by client. The items of one client stay in order."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Item]] = OrderedDict()

    def add(self, client: str, item: Item) -> None:
        self._waiting.setdefault(client, deque()).append(item)

    def remove(self, client: str, item: Item) -> None:
        """Forget an item that waits no more; harmless if it has been taken."""
        items = self._waiting.get(client)
        if items is not None and item in items:
            items.remove(item)
            if not items:
                del self._waiting[client]

    def take(self, suits: Callable[[Item], bool] = lambda _: True) -> Item | None:
        """The first item of the client that has waited longest for a turn, among those that suit."""
        for client, items in self._waiting.items():
            if suits(items[0]):
                item = items.popleft()
                self._waiting.move_to_end(client)
                if not items:
                    del self._waiting[client]
                return item
        return None

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))
