"""A laboratory for connections: an app that tells what happens to it, a server, and clients that misbehave.

The sockets are real loopback TCP, so that FIN and RST are the kernel's own. The clock is not: it jumps when
nothing has happened on any of them for 10 ms.
"""

import errno
import gc
import os
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import h2.connection
import h2.events
import h2.settings
import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import Framework
from hypercorn.utils import wrap_app
from quart import Response, request
from quart.wrappers.response import ResponseBody
from quart_trio import QuartTrio
from trio.testing import MockClock

from corral.transport import EXTENSION, Limits
from corral.transport.census import Census
from corral.transport.connection import Connection

LIMITS = Limits(
    send_timeout_s=4,
    header_timeout_s=3,
    tls_handshake_timeout_s=2,
    idle_connection_s=5,
    notsent_lowat_bytes=4096,
)


@dataclass
class Journal:
    """What the app has been through, by path."""

    started: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    connections_ended: Counter[str] = field(default_factory=Counter)
    bodies: dict[str, bytes] = field(default_factory=dict)
    sent_bytes: Counter[str] = field(default_factory=Counter)
    extensions: dict[str, dict[str, Any]] = field(default_factory=dict)
    go_on: dict[str, trio.Event] = field(default_factory=dict)
    changed: trio.Condition = field(default_factory=trio.Condition)

    def event(self, path: str) -> trio.Event:
        return self.go_on.setdefault(path, trio.Event())

    async def note(self, counter: Counter[str], path: str) -> None:
        counter[path] += 1
        async with self.changed:
            self.changed.notify_all()

    async def until(self, done: Callable[[], bool], within_s: float = 1) -> None:
        """Wait until the journal says so; fails if that takes longer on the virtual clock."""
        with trio.fail_after(within_s):
            async with self.changed:
                while not done():
                    await self.changed.wait()

    async def until_started(self, path: str) -> None:
        await self.until(lambda: self.started[path] > 0)

    async def until_ended(self, path: str, within_s: float = 1) -> None:
        await self.until(lambda: self.ended[path] > 0, within_s)


CHUNK = b"data: " + b"x" * 120 + b"\n\n"

# What each path does:
#   /body    reads the whole body, then answers with its length
#   /before  answers when its event is set
#   /stream  sends a chunk, waits for its event, sends "rest"
#   /length  the same with Content-Length
#   /flood   sends without end
#   /blind   the same, and never asks whether anybody is there
#   /deaf    waits for its event, then reads its body
#   /crash   raises before, /crash-late in the body
#   else     answers at once


def raw_app(journal: Journal) -> Callable[..., Any]:
    async def respond(path: str, receive: Any, send: Any) -> None:
        async def start(*headers: tuple[bytes, bytes]) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": list(headers)})

        async def say(data: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})
            journal.sent_bytes[path] += len(data)

        if path.startswith("/body"):
            await start()
            await say(b"%d" % len(journal.bodies[path]), more=False)
        elif path.startswith("/stream"):
            await start((b"content-type", b"text/event-stream"))
            await say(CHUNK)
            await journal.event(path).wait()
            await say(b"rest", more=False)
        elif path.startswith("/length"):
            await start((b"content-length", b"9"))
            await say(b"first")
            await journal.event(path).wait()
            await say(b"rest", more=False)
        elif path.startswith(("/flood", "/blind")):
            await start()
            while True:
                await say(CHUNK * 8)
        elif path.startswith("/crash-late"):
            await start()
            await say(CHUNK)
            raise RuntimeError("a bug in an encoder")
        elif path.startswith("/crash"):
            raise RuntimeError("a bug in a handler")
        else:
            if path.startswith("/before"):
                await journal.event(path).wait()
            await start()
            await say(b"answer", more=False)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        journal.extensions[path] = scope["extensions"][EXTENSION]
        whole = trio.Event()

        async def listen() -> None:
            body = bytearray()
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    nursery.cancel_scope.cancel()
                    return
                body += message["body"]
                if not message["more_body"]:
                    journal.bodies[path] = bytes(body)
                    whole.set()

        try:
            async with trio.open_nursery() as nursery:
                await journal.note(journal.started, path)
                if path.startswith("/deaf"):
                    await journal.event(path).wait()
                if not path.startswith("/blind"):
                    nursery.start_soon(listen)
                if path.startswith(("/body", "/deaf")):
                    await whole.wait()
                await respond(path, receive, send)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await journal.note(journal.ended, path)

    return app


def quart_app(journal: Journal) -> QuartTrio:
    app = QuartTrio(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 1 << 30

    class Stream(ResponseBody):
        def __init__(self, path: str) -> None:
            self.path = path
            self.parts = 0

        async def __aenter__(self) -> "Stream":
            return self

        async def __aexit__(self, *exc_info: object) -> None:
            pass

        def __aiter__(self) -> "Stream":
            return self

        async def __anext__(self) -> bytes:
            self.parts += 1
            if self.path.startswith("/flood"):
                journal.sent_bytes[self.path] += len(CHUNK) * 8
                return CHUNK * 8
            if self.parts == 1:
                return CHUNK
            if self.path.startswith("/crash-late"):
                raise RuntimeError("a bug in an encoder")
            if self.parts == 2:
                await journal.event(self.path).wait()
                return b"rest"
            raise StopAsyncIteration

    @app.route("/<path:_>", methods=["GET", "POST"])
    async def any_path(_: str) -> Response:
        path = request.path
        journal.extensions[path] = request.scope["extensions"][EXTENSION]
        await journal.note(journal.started, path)
        if path.startswith("/body"):
            return Response(str(len(await request.get_data())))
        if path.startswith(("/stream", "/flood", "/crash-late")):
            response = Response(Stream(path), content_type="text/event-stream")
            response.timeout = None
            return response
        if path.startswith("/crash"):
            raise RuntimeError("a bug in a handler")
        if path.startswith("/before"):
            await journal.event(path).wait()
        return Response("answer")

    inner = app.asgi_app

    async def noted(scope: Any, receive: Any, send: Any) -> None:
        try:
            await inner(scope, receive, send)
        finally:
            with trio.CancelScope(shield=True):
                if scope["type"] == "http":
                    await journal.note(journal.ended, scope["path"])

    app.asgi_app = noted  # type: ignore[method-assign]
    return app


APPS = {"raw": raw_app, "quart": quart_app}


@dataclass
class Lab:
    """A running server in this task's nursery."""

    journal: Journal
    context: WorkerContext
    census: Census
    port: int
    client_context: ssl.SSLContext | None = None
    clients: list[trio.SocketStream] = field(default_factory=list)

    async def connect(self, *, receive_buffer: int | None = None) -> trio.SocketStream:
        """A TCP client; `receive_buffer` makes it one that stalls soon."""
        sock = trio.socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        stream = trio.SocketStream(sock)
        self.clients.append(stream)  # to be closed at the end
        await sock.connect(("127.0.0.1", self.port))
        return stream

    async def connect_tls(self, *alpn: str) -> "trio.SSLStream[trio.SocketStream]":
        assert self.client_context is not None
        self.client_context.set_alpn_protocols(list(alpn) or ["http/1.1"])
        transport = await self.connect()
        stream = trio.SSLStream(
            transport, self.client_context, server_hostname="localhost", https_compatible=True
        )
        await stream.do_handshake()
        return stream

    async def request(self, head: bytes, **how: Any) -> trio.SocketStream:
        stream = await self.connect(**how)
        await stream.send_all(head)
        return stream

    async def until_empty(self, within_s: float = 1) -> None:
        """Wait until no connection is left."""
        await self.journal.until(lambda: not self.census.connections, within_s)


@asynccontextmanager
async def laboratory(
    clock: MockClock,
    app: str = "raw",
    limits: Limits = LIMITS,
    *,
    server_context: ssl.SSLContext | None = None,
    client_context: ssl.SSLContext | None = None,
    keep_clients: bool = False,
) -> AsyncIterator[Lab]:
    """Serve until the block ends; then everything must be gone: connections, tasks, file descriptors."""
    assert trio.lowlevel.current_clock() is clock, "these tests take minutes on the wall clock"
    journal = Journal()
    gc.collect()
    descriptors, tasks = open_descriptors(), count_tasks()
    async with trio.open_nursery() as nursery:
        context = WorkerContext(None)
        census = Census(limits)
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        connection = partial(
            Connection,
            limits,
            census,
            wrap_app(cast(Framework, APPS[app](journal)), 1 << 20, "asgi"),
            quiet(),
            context,
            {},
        )

        async def handler(stream: Any) -> None:
            try:
                await connection(stream)
            finally:
                with trio.CancelScope(shield=True):
                    await journal.note(journal.connections_ended, "")

        listeners: list[Any] = [listener]
        if server_context is not None:
            listeners = [trio.SSLListener(listener, server_context, https_compatible=True)]
        await nursery.start(partial(trio.serve_listeners, handler, listeners))
        lab = Lab(journal, context, census, port, client_context)
        try:
            yield lab
            await context.terminated.set()
            nursery.cancel_scope.cancel()
        finally:
            if not keep_clients:
                for client in lab.clients:
                    client.socket.close()
    assert census.connections == 0
    assert journal.started == journal.ended
    assert count_tasks() == tasks
    assert open_descriptors() - (len(lab.clients) if keep_clients else 0) == descriptors


def quiet() -> Config:
    config = Config()
    config.errorlog = None
    return config


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def count_tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


# Endings, from the client's side


async def close(stream: trio.abc.Stream) -> None:
    """FIN, as an ordinary client says it: close()."""
    await trio.aclose_forcefully(stream)


async def reset(stream: trio.abc.Stream) -> None:
    """RST."""
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    assert isinstance(transport, trio.SocketStream)
    transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.socket.close()
    await trio.lowlevel.checkpoint()


Ending = Callable[[trio.abc.Stream], Awaitable[None]]
ENDINGS: dict[str, Ending] = {"FIN": close, "RST": reset}


async def read_all(stream: trio.abc.Stream, within_s: float = 10) -> bytes:
    """Everything until the server closes."""
    received = b""
    with trio.fail_after(within_s):
        while data := await stream.receive_some(65536):
            received += data
    return received


async def read_until(stream: trio.abc.Stream, end: bytes) -> bytes:
    received = b""
    with trio.fail_after(5):
        while end not in received:
            data = await stream.receive_some(65536)
            assert data, received
            received += data
    return received


async def is_reset(stream: trio.abc.Stream, within_s: float = 10) -> bool:
    """Read what there is; True if it ends with RST."""
    try:
        await read_all(stream, within_s)
    except trio.BrokenResourceError as broken:
        return isinstance(broken.__cause__, OSError) and broken.__cause__.errno == errno.ECONNRESET
    return False


class H2Client:
    """HTTP/2 with prior knowledge, over any stream, with its flow control in the test's hands."""

    def __init__(self, stream: trio.abc.Stream, *, window: int = 65535) -> None:
        self.stream = stream
        self.h2 = h2.connection.H2Connection()
        self.h2.initiate_connection()
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.body: dict[int, bytes] = {}
        self.status: dict[int, bytes] = {}
        self.events: list[h2.events.Event] = []
        self.give_window = True

    async def get(self, path: str, *, method: str = "GET", end: bool = True) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(
            stream_id,
            [(":method", method), (":path", path), (":scheme", "http"), (":authority", "x")],
            end_stream=end,
        )
        await self.flush()
        return stream_id

    async def flush(self) -> None:
        await self.stream.send_all(self.h2.data_to_send())

    async def until(
        self, kind: type[h2.events.Event], stream_id: int | None = None, within_s: float = 10
    ) -> Any:
        """Read until such an event has come (also one that came before)."""
        with trio.fail_after(within_s):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and stream_id in (None, getattr(event, "stream_id", None)):
                        return event
                assert await self.until_more(), f"closed before {kind.__name__}: {self.events}"

    async def until_more(self) -> bool:
        """Read once; False at the end."""
        data = await self.stream.receive_some(65536)
        for event in self.h2.receive_data(data):
            self.events.append(event)
            if isinstance(event, h2.events.DataReceived):
                self.body[event.stream_id] = self.body.get(event.stream_id, b"") + event.data
                if self.give_window:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        with suppress(trio.BrokenResourceError):
            await self.flush()
        return bool(data)
