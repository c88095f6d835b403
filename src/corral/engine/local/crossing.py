"""From the engine's thread to the event loop, without giving away Python's lock on the way.

`TrioToken.run_sync_soon` wakes the loop by a write to a socket, and Python lets go of its lock around that.
The loop then has it, often on the core of the thread that wrote, and works while the engine waits for as
long as a switch interval, with its next step ready to go. Here the lock is kept through the write, so that
the loop gets it a moment later, when the engine is inside llama.cpp and needs it no more.
"""

import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import trio

T = TypeVar("T")

MOST_BYTES = 4096  # of the pipe, at a time: each only says that something has come


class Crossing(Generic[T]):
    """A queue with one end in any thread and one in trio: `send_nowait` there, `run` here.

    What was sent is given to `take` in its order, on the loop; `take` may neither block nor raise.
    """

    def __init__(self, take: Callable[[T], None], readable: int, writable: int) -> None:
        """Of both ends of a pipe that do not block: `open_crossing` makes them."""
        self._take = take
        self._sent: deque[T] = deque()
        self._has_rung = False
        self._readable = readable
        self._writable = writable

    def send_nowait(self, item: T) -> None:
        """From any thread; what is sent when nobody runs is taken by the next `drain`."""
        self._sent.append(item)
        if not self._has_rung:
            self._has_rung = True
            _ring(self._writable)

    def drain(self) -> None:
        """Take what has come by now, in trio."""
        self._has_rung = False  # first: what is sent from here on rings again
        while self._sent:
            self._take(self._sent.popleft())

    async def run(self) -> None:
        """Take what comes, until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._readable)
            os.read(self._readable, MOST_BYTES)
            self.drain()


@contextmanager
def open_crossing(take: Callable[[T], None]) -> Iterator[Crossing[T]]:
    """A crossing whose pipe is closed behind the block: nothing may be sent after it."""
    readable, writable = os.pipe()
    try:
        os.set_blocking(readable, False)
        os.set_blocking(writable, False)
        yield Crossing(take, readable, writable)
    finally:
        os.close(readable)
        os.close(writable)


def _writer() -> Callable[[int], object]:
    """Writes a byte to a file descriptor. A full pipe is as good: there is something to be read."""
    write = ctypes.PyDLL(None).write  # of PyDLL: a call through CDLL, like os.write, lets go of the lock
    write.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
    write.restype = ctypes.c_ssize_t
    return lambda descriptor: write(descriptor, b"\0", 1)


_ring = _writer()
