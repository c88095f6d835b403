"""One request to an upstream on a connection of its own, and its answer as it comes.

There is no pool: a connection is one request's, so that closing it ends exactly that. `close` is synchronous
and works in every phase. Unless the answer is whole it resets the connection (RST): an upstream may take a
FIN for a client that has said all and still listens, and nothing it sends then is wanted.

Everything here is bounded: the head, the body of what is not a stream, and the time it takes to connect.
"""

import socket
import ssl
import struct
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Final

import h11
import trio

from corral import __version__
from corral.engine.upstream.address import Address
from corral.engine.upstream.faults import broken, unreachable

CONNECT_S: Final = 5.0
HEAD_BYTES: Final = 64 * 1024
READ_BYTES: Final = 64 * 1024

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""An upstream whose machine is gone says nothing; of a long silence the kernel's probes make an error."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked. With no body it is a GET."""

    path: str
    key: str = ""
    body: bytes | None = None
    request_id: str = ""
    accept: str = "application/json"


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of an answer. `headers` are by their names in small letters."""

    status: int
    headers: dict[str, str]

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class Exchange:
    """To be used as `with closing(Exchange(...)) as exchange`: whoever leaves the block has ended it."""

    __slots__ = ("_address", "_connection", "_is_whole", "_stream", "_tcp", "_tls")

    def __init__(self, address: Address, tls: ssl.SSLContext | None) -> None:
        self._address = address
        self._tls = tls
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
        self._tcp: trio.SocketStream | None = None
        self._stream: trio.abc.Stream | None = None
        self._is_whole = False

    async def ask(self, ask: Ask) -> Head:
        """Connect, send it, and wait for the head of the answer; a checkpoint. Raises Fault."""
        written = self._written(ask)
        stream = self._stream = await self._connected()
        with suppress(trio.BrokenResourceError):  # it may have answered before it had read all, as with 413
            await stream.send_all(written)
        while True:
            event = await self._next()
            if isinstance(event, h11.Response):
                headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
                encoding = headers.get("content-encoding", "identity").strip().lower()
                if encoding not in ("", "identity"):
                    raise broken("compressed its answer, which it was asked not to do")
                return Head(event.status_code, headers)
            if not isinstance(event, h11.InformationalResponse):
                raise broken("did not answer in HTTP")

    async def receive(self) -> bytes:
        """The next piece of the answer's body, empty at its end; a checkpoint.

        Raises Fault if it breaks off.
        """
        while True:
            event = await self._next()
            if isinstance(event, h11.Data):
                if event.data:
                    return bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._is_whole = True
                return b""
            else:
                raise broken("broke off its answer")

    async def body(self, limit_bytes: int) -> bytes:
        """All of the answer's body, or as much of it as is read of any; a checkpoint. Raises Fault."""
        body = bytearray()
        while piece := await self.receive():
            body += piece
            if len(body) > limit_bytes:
                break
        return bytes(body[:limit_bytes])

    def close(self) -> None:
        """End it, whatever has happened of it; synchronous, idempotent, never raises."""
        if self._tcp is None:
            return
        tcp, self._tcp, self._stream = self._tcp.socket, None, None
        if not self._is_whole:
            with suppress(OSError):
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        tcp.close()

    async def _connected(self) -> trio.abc.Stream:
        address = self._address
        try:
            with trio.fail_after(CONNECT_S):
                self._tcp = await trio.open_tcp_stream(address.host, address.port)
                with suppress(OSError):
                    self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    for option, value in _KEEPALIVE.items():
                        if hasattr(socket, option):
                            self._tcp.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
                if self._tls is None or not address.is_tls:
                    return self._tcp
                tls = trio.SSLStream(
                    self._tcp, self._tls, server_hostname=address.host, https_compatible=True
                )
                await tls.do_handshake()
                return tls
        except (OSError, UnicodeError, trio.TooSlowError, trio.BrokenResourceError) as error:
            raise unreachable() from error

    def _written(self, ask: Ask) -> bytes:
        headers = [
            ("Host", self._address.authority),
            ("User-Agent", f"corral/{__version__}"),
            ("Accept", ask.accept),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ]
        if ask.key:
            headers.append(("Authorization", f"Bearer {ask.key}"))
        if ask.request_id:
            headers.append(("X-Request-Id", ask.request_id))
        if ask.body is not None:
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(ask.body)))]
        method = "GET" if ask.body is None else "POST"
        send = self._connection.send
        try:
            written = send(h11.Request(method=method, target=self._address.path + ask.path, headers=headers))
        except (h11.LocalProtocolError, UnicodeError):  # which shows the header, and so perhaps the key
            raise broken("cannot be asked: its address or its key is none for HTTP") from None
        if ask.body:
            written += send(h11.Data(data=ask.body))
        return written + send(h11.EndOfMessage())

    async def _next(self) -> h11.Event | type[h11.PAUSED] | type[h11.NEED_DATA]:
        assert self._stream is not None, "it is closed"
        try:
            while (event := self._connection.next_event()) is h11.NEED_DATA:
                self._connection.receive_data(bytes(await self._stream.receive_some(READ_BYTES)))
        except h11.RemoteProtocolError as error:
            raise broken("broke off its answer, or did not answer in HTTP") from error
        except trio.BrokenResourceError as error:
            raise broken("broke off its answer") from error
        return event


async def fetch(
    address: Address, tls: ssl.SSLContext | None, ask: Ask, *, limit_bytes: int
) -> tuple[int, bytes]:
    """The status and the body of a short answer; a checkpoint. Cancelling resets it. Raises Fault."""
    with closing(Exchange(address, tls)) as exchange:
        head = await exchange.ask(ask)
        return head.status, await exchange.body(limit_bytes)
