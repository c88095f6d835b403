"""Fakes that the tests share: a gate between the engine's steps, and a client at the ASGI boundary.

The ASGI client stands where Hypercorn stands. It lets a test leave a request at any point and on the
virtual clock; what sockets do is tested in tests/transport.
"""

import json
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from corral.application import Application
from corral.dialects.routes import ROUTES, Route
from corral.engine.local.backend import Chunk
from corral.engine.local.scripted import ScriptedBackend
from corral.serving.generation import Service
from corral.settings import Settings


class Gate:
    """Hold every engine step until the test lets it through; for ScriptedBackend's `on_step`.

    A step that was let through runs on the engine's thread: `passed` waits for it from trio.
    """

    def __init__(self) -> None:
        self._permits = threading.Semaphore(0)
        self._arrived = threading.Semaphore(0)
        self._is_open = False

    def __call__(self, chunks: Sequence[Chunk]) -> None:
        self._arrived.release()
        if not self._is_open:
            self._permits.acquire()

    def let(self, steps: int = 1) -> None:
        for _ in range(steps):
            self._permits.release()

    def open(self) -> None:
        """Hold nothing any more."""
        self._is_open = True
        self._permits.release(10_000)

    async def wait_arrived(self) -> None:
        """Until the engine stands at the gate with one more step."""
        await trio.to_thread.run_sync(self._arrived.acquire)


class Exchange:
    """One request and its response, as they come. `leave()` is the client's disconnect."""

    def __init__(self, buffered_chunks: int) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.is_over = trio.Event()
        self.aborted = False
        self.stalled = False
        self._left = trio.Event()
        self._started = trio.Event()
        self._to_client, self._chunks = trio.open_memory_channel[bytes](buffered_chunks)

    def leave(self) -> None:
        self._left.set()

    def abort(self) -> None:
        """What the transport's abort does: the connection is gone."""
        self.aborted = True
        self.leave()

    async def started(self) -> None:
        await self._started.wait()

    async def chunk(self) -> bytes:
        """The next write of the response body; EndOfChannel after the last."""
        return await self._chunks.receive()

    async def body(self) -> bytes:
        """All that is left of the body."""
        return b"".join([chunk async for chunk in self._chunks])

    async def json(self) -> Any:
        return json.loads(await self.body())

    async def run(self, app: Any, scope: dict[str, Any], body: Sequence[bytes]) -> None:
        parts = list(body)

        async def receive() -> dict[str, Any]:
            if parts:
                return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}
            await self._left.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            await trio.lowlevel.checkpoint()
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = {k.decode().lower(): v.decode() for k, v in message["headers"]}
                self._started.set()
            elif message["body"]:
                await self._to_client.send(message["body"])
            if message["type"] == "http.response.body" and not message.get("more_body"):
                self._to_client.close()

        try:
            await app(scope, receive, send)
        finally:
            self._to_client.close()
            self._started.set()
            self.is_over.set()


class Client:
    """Sends requests to a running Application."""

    def __init__(self, app: Application, nursery: trio.Nursery) -> None:
        self.app = app
        self._nursery = nursery
        self.terminated = trio.Event()
        """What Hypercorn sets when its shutdown begins."""

    @property
    def service(self) -> Service:
        return self.app.service

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        raw: Sequence[bytes] | None = None,
        buffered_chunks: int = 1000,
    ) -> Exchange:
        """Start a request; `raw` are the body's pieces as they arrive, `body` is sent as JSON."""
        exchange = Exchange(buffered_chunks)
        pieces = raw if raw is not None else [b"" if body is None else json.dumps(body).encode()]
        given = {"host": "localhost:8000", **(headers or {})}
        if raw is None:
            given.setdefault("content-length", str(len(pieces[0])))
        scope = {
            "type": "http",
            "asgi": {"spec_version": "2.3", "version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(k.lower().encode(), v.encode()) for k, v in given.items()],
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 8000),
            "state": {},
            "extensions": {
                "corral.transport": {
                    "abort": exchange.abort,
                    "stalled": lambda: exchange.stalled,
                    "terminated": self.terminated,
                }
            },
        }
        self._nursery.start_soon(exchange.run, self.app, scope, pieces)
        return exchange

    def chat(self, text: str = "hello", *, buffered_chunks: int = 1000, **fields: Any) -> Exchange:
        body = {"model": "scripted", "messages": [{"role": "user", "content": text}], **fields}
        return self.send("POST", "/v1/chat/completions", body, buffered_chunks=buffered_chunks)


@asynccontextmanager
async def serving(
    backend: ScriptedBackend, *, routes: Sequence[Route] = ROUTES, **settings: Any
) -> AsyncIterator[Client]:
    """A running server on a scripted backend; at the end, nothing of any request may be left."""
    settings.setdefault("stream_interval_ms", 0)  # a test may hold a step up, and wants the text before it
    app = Application(Settings(**settings), lambda: (backend, "scripted"), routes=routes)
    to_app, from_test = trio.open_memory_channel[dict[str, Any]](1)
    to_test, from_app = trio.open_memory_channel[dict[str, Any]](1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(app, {"type": "lifespan", "state": {}}, from_test.receive, to_test.send)
        await to_app.send({"type": "lifespan.startup"})
        assert (await from_app.receive())["type"] == "lifespan.startup.complete"
        async with trio.open_nursery() as exchanges:
            client = Client(app, exchanges)
            yield client
            await client.service.wait_idle()
            client.service.check_idle()
            exchanges.cancel_scope.cancel()
        await to_app.send({"type": "lifespan.shutdown"})
        assert (await from_app.receive())["type"] == "lifespan.shutdown.complete"
    assert backend.open_samplers == 0
