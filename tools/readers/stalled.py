"""Readers that stall, each of them timed: since when it could get no more, and when it was evicted.

The crowd's stalled readers (crowd.py) are only there. These ask the kernel what it knows of them: Linux, and
a server on this machine.
"""

import select
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from tools.clients.framing import FramingError
from tools.clients.target import Target

RECEIVE_BUFFER_BYTES = 4096
LOOK_S = 0.01
STILL_S = 0.3
FIRST_BYTES = 512


class StalledReader:
    """A client that has stopped reading."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.port: int = sock.getsockname()[1]
        self._sock = sock

    async def closed(self) -> None:
        """Return when the server has ended the connection, by RST or FIN; reads nothing. A checkpoint."""
        with select.epoll(1) as watch:
            watch.register(self._sock.fileno(), select.EPOLLRDHUP)  # EPOLLERR and EPOLLHUP need no asking
            await trio.lowlevel.wait_readable(watch.fileno())


@asynccontextmanager
async def stalled_reader(target: Target, request: bytes) -> AsyncIterator[StalledReader]:
    """A client that reads the first bytes of its response and no more. It leaves with the block.

    Raises OSError or FramingError where it gets no response.
    """
    with trio.socket.socket() as sock:
        # Before connecting: the window scale is fixed in the handshake.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        await sock.connect((target.host, target.port))
        await sock.send(request)
        head = await sock.recv(FIRST_BYTES)
        if not head.startswith(b"HTTP/1.1 200"):
            raise FramingError(f"no stream: {head[:40]!r}")
        yield StalledReader(sock)


def unread_bytes(server_port: int) -> dict[int, int]:
    """What the server wrote and its clients did not read: bytes in both kernels, by the client's port.

    From /proc/net/tcp.
    """
    unread: dict[int, int] = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        local_port, remote_port = (int(address.rpartition(":")[2], 16) for address in (local, remote))
        sending, receiving = (int(size, 16) for size in queues.split(":"))
        if local_port == server_port:
            unread[remote_port] = unread.get(remote_port, 0) + sending
        elif remote_port == server_port:
            unread[local_port] = unread.get(local_port, 0) + receiving
    return unread


@dataclass(slots=True)
class Stall:
    """One reader's stall; seconds of the monotonic clock. `grew_s` is when its unread bytes last grew."""

    unread_bytes: int = 0
    grew_s: float = 0.0
    closed_s: float | None = None

    @property
    def lasted_s(self) -> float | None:
        """From the last byte that the server could write to the end of the connection."""
        return None if self.closed_s is None else self.closed_s - self.grew_s


class StalledReaders:
    """Readers that stall on `target`. They all make the same `request`, so its prompt is prefilled once."""

    def __init__(self, target: Target, request: bytes) -> None:
        self._target = target
        self._request = request
        self.stalls: list[Stall] = []
        """Of all that came."""
        self._open: dict[int, Stall] = {}

    @asynccontextmanager
    async def attached(self, count: int, *, come_back: bool) -> AsyncIterator[None]:
        """`count` readers, who have all stalled when the block is entered, until it is left.

        With `come_back` each comes again when it was evicted.
        """
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                await nursery.start(self._stay, come_back)
            await self.watch(lambda: self._are_still)
            yield
            nursery.cancel_scope.cancel()

    async def watch(self, is_enough: Callable[[], bool]) -> None:
        """Look at the unread bytes every `LOOK_S` until `is_enough()`."""
        while not is_enough():  # noqa: ASYNC110  # the kernel tells of them only when asked
            unread, now_s = unread_bytes(self._target.port), trio.current_time()
            for port, stall in self._open.items():
                size_bytes = unread.get(port, 0)
                if size_bytes > stall.unread_bytes:
                    stall.grew_s = now_s
                stall.unread_bytes = size_bytes
            await trio.sleep(LOOK_S)

    @property
    def are_gone(self) -> bool:
        """Whether the server has ended the connections of all that came."""
        return not self._open

    @property
    def _are_still(self) -> bool:
        grew_s = max((stall.grew_s for stall in self._open.values()), default=0.0)
        return trio.current_time() - grew_s > STILL_S

    async def _stay(
        self, come_back: bool, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        while True:
            async with stalled_reader(self._target, self._request) as reader:
                stall = Stall(grew_s=trio.current_time())
                self.stalls.append(stall)
                self._open[reader.port] = stall
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                try:
                    await reader.closed()
                    stall.closed_s = trio.current_time()
                finally:
                    del self._open[reader.port]
            if not come_back:
                return
