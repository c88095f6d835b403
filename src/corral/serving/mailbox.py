"""One reader's bounded channel: whoever writes never waits, and is told when the reader lags too far."""

import math
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A trio memory channel that is bounded in items and in bytes. One task receives, anybody may push."""

    __slots__ = ("_max_bytes", "_receive", "_send", "_waiting_bytes")

    def __init__(self, max_items: float, *, max_bytes: float = math.inf) -> None:
        self._max_bytes = max_bytes
        self._waiting_bytes = 0
        self._send, self._receive = trio.open_memory_channel[T](max_items)

    @property
    def waiting(self) -> int:
        """Items that were pushed and not yet received."""
        return self._receive.statistics().current_buffer_used

    def push_nowait(self, item: T, size_bytes: int = 0) -> bool:
        """Put an item in; False, and nothing has changed, where there is no room. Never blocks nor raises.

        `size_bytes` is what the item will roughly be to the reader.
        """
        if self._waiting_bytes + size_bytes > self._max_bytes:
            return False
        try:
            self._send.send_nowait(item)
        except trio.WouldBlock:
            return False
        self._waiting_bytes += size_bytes
        return True

    async def receive_all(self) -> list[T]:
        """Everything that waits, at least one item; a checkpoint. Cancelling it loses nothing.

        Raises EndOfChannel once it is closed and empty.
        """
        return [await self._receive.receive(), *self._take()]

    def clear(self) -> None:
        """Throw away what waits; synchronous, so nobody receives in between."""
        self._take()

    def close(self) -> None:
        """What waits is still received, then comes the end. Nothing may be pushed any more."""
        self._send.close()

    def _take(self) -> list[T]:
        items = []
        while True:
            try:
                items.append(self._receive.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                self._waiting_bytes = 0
                return items
