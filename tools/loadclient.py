"""A trio client that puts load on an OpenAI-compatible server and hides no misbehaviour, its own included.

One request, one connection, one `Answer`. A `Habit` says how the client behaves: it may read slowly, stop
reading, send its request in a trickle, pipeline junk, half-close, or leave with a FIN or an RST at a chosen
moment. Nothing is retried, pooled or buffered on the way; times are taken when bytes arrive.

`chat` speaks HTTP/1.1; loadh2.py does the same over HTTP/2.
"""

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

import msgspec
import trio

from http1 import FramingError, ResponseReader, request_bytes
from sse import Answer, SseReader, read_whole

RECEIVE_BYTES = 65_536
TCP_ESTABLISHED = 1  # first byte of struct tcp_info on Linux


class Leave(Enum):
    """How a client goes. RST_STREAM and GOAWAY exist on HTTP/2 only."""

    FIN = "fin"
    RST = "rst"
    RST_STREAM = "rst_stream"
    GOAWAY = "goaway"


@dataclass(frozen=True, slots=True)
class Habit:
    """How a client behaves. The default reads as fast as it can and stays to the end.

    It leaves `leave_after_s` after its request was sent, or at the `leave_after_deltas`th delta with text,
    by `leave`. A staller stops reading at its first delta with text and waits at most `stall_limit_s` for
    the server to end the connection; its socket's receive buffer should be small.
    """

    leave: Leave = Leave.FIN
    leave_after_s: float | None = None
    leave_after_deltas: int | None = None
    half_closes: bool = False
    stalls: bool = False
    stall_limit_s: float = 60.0
    read_bytes_s: float | None = None
    receive_buffer_bytes: int | None = None
    send_bytes_s: float | None = None
    pipelined: bytes = b""


POLITE = Habit()


@dataclass(frozen=True, slots=True)
class Target:
    """A server: where it is and what to call its model. `tls` None is plain text."""

    host: str
    port: int
    path: str = "/v1"
    model: str = "default"
    api_key: str | None = None
    tls: ssl.SSLContext | None = None

    @classmethod
    def from_url(
        cls, base_url: str, *, model: str = "default", api_key: str | None = None, verify: bool = True
    ) -> "Target":
        """`http://host:port[/v1]`, as every OpenAI client takes it. Raises ValueError."""
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"not an http URL: {base_url!r}")
        tls = None
        if url.scheme == "https":
            tls = ssl.create_default_context()
            if not verify:
                tls.check_hostname = False
                tls.verify_mode = ssl.CERT_NONE
        port = url.port or (443 if tls else 80)
        return cls(url.hostname, port, url.path.rstrip("/") or "/v1", model, api_key, tls)

    @property
    def headers(self) -> dict[str, str]:
        """Those of every request, `host` included."""
        headers = {"host": f"{self.host}:{self.port}", "accept": "*/*"}
        if self.api_key:
            headers["authorization"] = f"Bearer {self.api_key}"
        return headers


class Chat(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is asked for: the fields of a chat completion that a load needs, as JSON names them."""

    messages: list[dict[str, str]]
    max_tokens: int
    model: str = ""
    temperature: float | None = None
    stream: bool = False
    stream_options: dict[str, bool] | None = None

    def body(self, model: str) -> bytes:
        """The JSON of the request, asking for usage where it streams."""
        options = {"include_usage": True} if self.stream else None
        return msgspec.json.encode(msgspec.structs.replace(self, model=model, stream_options=options))


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
        await sock.connect(address)
        stream: trio.abc.Stream = trio.SocketStream(sock)
        if target.tls is not None:
            target.tls.set_alpn_protocols([alpn])  # the context is shared; read when the stream is made
            tls = trio.SSLStream(stream, target.tls, server_hostname=target.host, https_compatible=True)
            await tls.do_handshake()
            stream = tls
        yield Line(stream, plain, is_plain=target.tls is None)


async def chat(
    target: Target,
    request: Chat,
    habit: Habit = POLITE,
    *,
    leaving: trio.CancelScope | None = None,
    watch: Callable[[Answer], None] | None = None,
) -> Answer:
    """Ask, behave as `habit` says, and return what was seen. Raises nothing but Cancelled.

    Cancelling `leaving` makes the client leave at once, by `habit.leave`; the answer says "left".
    `watch` is called with the unfinished answer whenever text has come; it may not block or raise.
    """
    answer = Answer(sent_s=trio.current_time())
    head = target.headers | {"content-type": "application/json"}
    wire = request_bytes("POST", f"{target.path}/chat/completions", head, request.body(target.model))
    try:
        async with connect(target, receive_buffer_bytes=habit.receive_buffer_bytes) as line:
            with leaving or trio.CancelScope() as scope:
                await line.send(wire + habit.pipelined, habit.send_bytes_s)
                answer.sent_s = trio.current_time()
                if habit.half_closes:
                    line.half_close()
                if habit.leave_after_s is not None:
                    scope.deadline = answer.sent_s + habit.leave_after_s
                await _read(line, answer, habit, watch)
            if not answer.ending:
                answer.ending = "left"
                answer.ended_s = trio.current_time()
                line.leave(habit.leave)
    except (OSError, trio.BrokenResourceError, FramingError) as error:
        answer.ending = "cut"
        answer.error = answer.error or root_cause(error)
    if answer.ended_s is None:
        answer.ended_s = trio.current_time()
    return answer


async def _read(line: Line, answer: Answer, habit: Habit, watch: Callable[[Answer], None] | None) -> None:
    """Read the response to its end, or to where the habit stops; then `ending` is still empty."""
    response = ResponseReader()
    events = SseReader(answer)
    whole: list[bytes] = []
    max_bytes = RECEIVE_BYTES if habit.read_bytes_s is None else max(1, int(habit.read_bytes_s / 10))
    deltas = 0
    while not response.is_complete:
        data = await line.receive(max_bytes)
        now_s = trio.current_time()
        if not data:
            response.feed_eof()
            break
        if answer.first_byte_s is None:
            answer.first_byte_s = now_s
        body = response.feed(data)
        answer.status = response.status
        answer.body_bytes += len(body)
        if body and response.is_event_stream:
            events.feed(body, now_s)
        elif body:
            whole.append(body)
        if len(answer.content_s) > deltas:
            deltas = len(answer.content_s)
            if watch is not None:
                watch(answer)
            if habit.leave_after_deltas is not None and deltas >= habit.leave_after_deltas:
                return
            if habit.stalls:
                await _stall(line, answer, habit)
                return
        if habit.read_bytes_s is not None:
            await trio.sleep(len(data) / habit.read_bytes_s)
    if answer.status != 200:
        answer.ending = "refused"
        answer.error = b"".join(whole)[:300].decode(errors="replace")
        return
    if response.is_event_stream:
        events.finish()
    else:
        read_whole(answer, b"".join(whole), trio.current_time())
    if response.excess and not habit.pipelined:
        answer.violate("bytes after the end of the response")
    answer.ending = "failed" if answer.error else "done"


async def _stall(line: Line, answer: Answer, habit: Habit) -> None:
    """Read no more until the server ends the connection.

    It asks the kernel every 10 ms, because nothing else tells of an RST without reading.
    """
    with trio.move_on_after(habit.stall_limit_s):
        while line.is_open_at_peer:  # noqa: ASYNC110
            await trio.sleep(0.01)
        answer.ending = "evicted"
        answer.ended_s = trio.current_time()


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
