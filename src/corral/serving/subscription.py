"""One reader's bounded channel: the writer never waits, and a reader that lags too far is let go."""

import math
from collections.abc import Callable
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Subscription(Generic[T]):
    """Holds at most `max_items` and `max_bytes` that were pushed and not yet received.

    The push that goes past either is dropped, `on_overflow` is called, once, and everything pushed later is
    dropped too: the reader has missed something and must not go on as if it had not.
    """

    def __init__(
        self, max_items: float, on_overflow: Callable[[], None], *, max_bytes: float = math.inf
    ) -> None:
        self._on_overflow = on_overflow
        self._max_bytes = max_bytes
        self._waiting_bytes = 0
        self._send, self._receive = trio.open_memory_channel[T](max_items)
        self._has_overflowed = False

    def push_nowait(self, item: T, size_bytes: int = 0) -> None:
        """Never blocks and never raises. `size_bytes` is what the item will roughly be to the reader."""
        if self._has_overflowed:
            return
        try:
            if self._waiting_bytes + size_bytes > self._max_bytes:
                raise trio.WouldBlock
            self._send.send_nowait(item)
        except trio.WouldBlock:
            self._has_overflowed = True
            self._on_overflow()
        else:
            self._waiting_bytes += size_bytes

    async def receive_waiting(self) -> list[T]:
        """Everything that waits, at least one item; a checkpoint. Cancelling it loses nothing."""
        items = [await self._receive.receive()]
        while True:
            try:
                items.append(self._receive.receive_nowait())
            except trio.WouldBlock:
                self._waiting_bytes = 0
                return items
