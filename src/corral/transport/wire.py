"""The socket below a connection: writing without waiting, resetting, and telling how much of a peer is left.

TCP says "I shall send no more" (FIN) when a peer half-closes, and says the very same when it closes. Only the
answer to our next byte differs: a peer that has closed answers it with RST, a half-closed one takes it. The
kernel then reports the reset as EPOLLERR | EPOLLHUP, but a socket past its FIN is readable for ever, so that
waiting for it to become readable cannot wait for that. An epoll set that watches the socket for nothing has
those two events and no others, and is itself a file descriptor to wait on.
"""

import os
import select
import socket
import struct
from contextlib import suppress
from typing import Protocol

import trio

# SO_LINGER on, 0 s: close() throws away what is unsent and says RST.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

# A peer that lost its power or its address says nothing at all; while a request runs silently for minutes
# only the kernel's own probes notice: after 15 s of silence every 5 s, given up after the third.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}

_HAS_EPOLL = hasattr(select, "epoll")


class _HasSocket(Protocol):
    socket: trio.socket.SocketType


class Wire:
    """The socket of one connection. Owns nothing: the stream above it closes it too, and may."""

    def __init__(self, transport: _HasSocket, notsent_lowat_bytes: int) -> None:
        self._socket = transport.socket
        self._is_tcp = self._socket.family in (socket.AF_INET, socket.AF_INET6)
        if not self._is_tcp:
            return
        with suppress(AttributeError, OSError):  # not on every system
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, notsent_lowat_bytes)
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                if hasattr(socket, option):
                    self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    @property
    def can_outlive_fin(self) -> bool:
        """Whether this system tells a peer that closed from one that half-closed."""
        return _HAS_EPOLL

    def write_nowait(self, data: bytes) -> int:
        """Write what the kernel takes at once; return how many bytes that was.

        Never raises: on a dead socket nothing is taken, and the write that waits meets the error.
        """
        try:
            return os.write(self._socket.fileno(), data)
        except OSError:
            return 0

    def reset(self) -> None:
        """Close with RST. Every task that waits for this socket wakes with ClosedResourceError."""
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._socket.close()

    def finish(self) -> None:
        """Say FIN, and go on reading. Not a checkpoint; a dead socket is left as it is."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    async def hung_up(self) -> None:
        """Return when the peer is gone for good (RST, or the socket failed); a FIN does not count.

        Does not notice when this side closes the socket: whoever closes it cancels this too.
        """
        await self._wait(0)

    async def finished(self) -> None:
        """Return when the peer has said FIN or is gone, even if bytes before it are still unread."""
        await self._wait(getattr(select, "EPOLLRDHUP", 0))

    async def _wait(self, events: int) -> None:
        if not _HAS_EPOLL or self._socket.fileno() == -1:
            await trio.sleep_forever()
        with select.epoll(1) as watch:
            watch.register(self._socket.fileno(), events)  # EPOLLERR and EPOLLHUP need no asking
            await trio.lowlevel.wait_readable(watch.fileno())
