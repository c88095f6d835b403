"""A connection with nothing hidden: what it sends, what it reads, and how it ends are the caller's."""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from tools.clients.framing import FramingError, ResponseReader, request_bytes
from tools.clients.habits import Leave
from tools.clients.target import Target

RECEIVE_BYTES = 65_536
TCP_ESTABLISHED = 1  # first byte of struct tcp_info on Linux


class Line:
    """A connection: a trio stream, and the socket under it for what a stream hides."""

    def __init__(self, stream: trio.abc.Stream, sock: socket.socket, *, is_plain: bool) -> None:
        self._stream = stream
        self._sock = sock
        self._is_plain = is_plain

    @property
    def is_open_at_peer(self) -> bool:
        """Whether neither FIN nor RST has come from the server. Needs no read, so a staller can ask."""
        state = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        return state[0] == TCP_ESTABLISHED

    async def send(self, data: bytes, bytes_s: float | None = None) -> None:
        """Send all, at `bytes_s` in tenths of a second where given."""
        if bytes_s is None:
            await self._stream.send_all(data)
            return
        step = max(1, int(bytes_s / 10))
        for at in range(0, len(data), step):
            await self._stream.send_all(data[at : at + step])
            await trio.sleep(step / bytes_s)

    async def receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """Some bytes, empty at the server's FIN. Raises OSError or trio.BrokenResourceError at its RST.

        Without TLS it waits first and reads then: a stream's client has nearly always to wait, and trio's
        socket would try in vain before every wait (measured: half of what a token costs this client).
        """
        if not self._is_plain:
            return bytes(await self._stream.receive_some(max_bytes))
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                return self._sock.recv(max_bytes)
            except BlockingIOError:
                continue

    def half_close(self) -> None:
        """Send a FIN and read on (`shutdown(SHUT_WR)`)."""
        self._sock.shutdown(socket.SHUT_WR)

    def leave(self, how: Leave) -> None:
        """Close now, with a FIN or an RST on the wire whatever is unread. Not a checkpoint.

        close(2) turns into an RST where received bytes were not read, so FIN reads them first.
        """
        if how is Leave.RST:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            drain_nowait(self._sock)
        self._sock.close()


def drain_nowait(sock: socket.socket) -> None:
    """Throw away what the kernel has received."""
    with suppress(OSError):
        while sock.recv(RECEIVE_BYTES):
            pass


@asynccontextmanager
async def connect(
    target: Target, *, receive_buffer_bytes: int | None = None, alpn: str = "http/1.1"
) -> AsyncIterator[Line]:
    """A connection to the server, closed at the end whatever happened. Raises OSError.

    The receive buffer is set before connecting: the window scale is fixed in the handshake.
    """
    family, kind, proto, _, address = (
        await trio.socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    )[0]
    plain = socket.socket(family, kind, proto)
    plain.setblocking(False)
    with trio.socket.from_stdlib_socket(plain) as sock:
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if target.source is not None:
            await sock.bind((target.source, 0))
        await sock.connect(address)
        stream: trio.abc.Stream = trio.SocketStream(sock)
        if target.tls is not None:
            target.tls.set_alpn_protocols([alpn])  # the context is shared; read when the stream is made
            tls = trio.SSLStream(stream, target.tls, server_hostname=target.host, https_compatible=True)
            await tls.do_handshake()
            stream = tls
        yield Line(stream, plain, is_plain=target.tls is None)


async def get_json(target: Target, path: str) -> tuple[int, bytes]:
    """GET a path (from the server's root) and return status and body. Raises OSError or FramingError."""
    async with connect(target) as line:
        await line.send(request_bytes("GET", path, target.headers))
        response = ResponseReader()
        body = b""
        while not response.is_complete:
            try:
                data = await line.receive()
            except trio.BrokenResourceError as error:
                raise FramingError(root_cause(error)) from error
            if not data:
                response.feed_eof()
                break
            body += response.feed(data)
        return response.status, body


def root_cause(error: BaseException) -> str:
    """The name of the innermost cause: `ConnectionResetError`, not trio's wrapper around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}" if isinstance(error, FramingError) else type(error).__name__
