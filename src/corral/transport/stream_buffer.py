"""What one HTTP/2 stream has to say and may not say yet."""

from collections.abc import Callable

import trio


class StreamBuffer:
    """Response bytes of one stream that its window, or its turn, has kept back.

    Bounded: `room` is reached when less than `limit_bytes` wait, and a writer waits for it after each push.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = bytearray()
        self._changed = trio.Event()
        self.ended = False
        self.dropped = False

    @property
    def drained(self) -> bool:
        """Nothing waits."""
        return not self._bytes

    @property
    def room(self) -> bool:
        """The writer may say more."""
        return len(self._bytes) < self._limit_bytes

    def push_nowait(self, data: bytes) -> None:
        """Add bytes, whatever the limit says."""
        self._bytes += data

    def pop_nowait(self, size: int) -> bytes:
        """Take up to `size` bytes out."""
        data = bytes(self._bytes[:size])
        if data:
            del self._bytes[:size]
            self._changed.set()
        return data

    def end(self) -> None:
        """No more bytes will come."""
        self.ended = True

    def drop(self) -> None:
        """Forget the bytes; whoever waits for room may stop waiting."""
        self.dropped = True
        self._bytes.clear()
        self._changed.set()

    async def wait_for(self, reached: Callable[[], bool], patience_s: float) -> bool:
        """Wait until `reached()` or dropped; False if not one byte moved for `patience_s`.

        Cancel-safe, not always a checkpoint. One task at a time: the app's, in its `send()`.
        """
        with trio.move_on_after(patience_s) as patience:
            while not (reached() or self.dropped):
                self._changed = trio.Event()
                await self._changed.wait()
                patience.deadline = trio.current_time() + patience_s
        return not patience.cancelled_caught
