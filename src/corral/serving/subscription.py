"""One reader's bounded channel: the writer never waits, and a reader that lags too far is let go."""

from collections.abc import Callable
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Subscription(Generic[T]):
    """Holds at most `max_items` that were pushed and not yet received.

    The push that finds it full is dropped, `on_overflow` is called, once, and everything pushed later is
    dropped too: the reader has missed something and must not go on as if it had not.
    """

    def __init__(self, max_items: int, on_overflow: Callable[[], None]) -> None:
        self._on_overflow = on_overflow
        self._send, self._receive = trio.open_memory_channel[T](max_items)
        self._has_overflowed = False

    def push_nowait(self, item: T) -> None:
        """Never blocks and never raises."""
        if self._has_overflowed:
            return
        try:
            self._send.send_nowait(item)
        except trio.WouldBlock:
            self._has_overflowed = True
            self._on_overflow()

    async def receive_waiting(self) -> list[T]:
        """Everything that waits, at least one item; a checkpoint. Cancelling it loses nothing."""
        items = [await self._receive.receive()]
        while True:
            try:
                items.append(self._receive.receive_nowait())
            except trio.WouldBlock:
                return items
