"""Fakes that the tests share: a gate between the engine's steps, and a client at the ASGI boundary.

The ASGI client stands where Hypercorn stands. It lets a test leave a request at any point and on the
virtual clock; what sockets do is tested in tests/transport.
"""

import json
import threading
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import unquote

import trio

from corral.application import Application
from corral.dialects.routes import table
from corral.engine.local.backend import Backend, Chunk
from corral.engine.local.scripted import ScriptedBackend
from corral.serving.models import Models
from corral.serving.service import Service
from corral.settings import Settings
from corral.wiring.running import Routes

GATE_S = 60.0
"""Nobody stands longer at a gate: where a test has failed, its engine's thread must end too."""


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
            assert self._permits.acquire(timeout=GATE_S), "nobody let this step through"

    def let(self, steps: int = 1) -> None:
        for _ in range(steps):
            self._permits.release()

    def open(self) -> None:
        """Hold nothing any more."""
        self._is_open = True
        self._permits.release(10_000)

    async def wait_arrived(self) -> None:
        """Until the engine stands at the gate with one more step."""
        assert await trio.to_thread.run_sync(partial(self._arrived.acquire, timeout=GATE_S))


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

    async def run(self, app: Any, scope: dict[str, Any], body: Iterable[bytes], *, ends: bool = True) -> None:
        pieces = iter(body)
        has_ended = not ends

        async def receive() -> dict[str, Any]:
            nonlocal has_ended
            await trio.lowlevel.checkpoint()
            if (piece := next(pieces, None)) is not None:
                return {"type": "http.request", "body": piece, "more_body": True}
            if not has_ended:
                has_ended = True
                return {"type": "http.request", "body": b"", "more_body": False}
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

    def __init__(self, app: Application, nursery: trio.Nursery, drain_s: float) -> None:
        self.app = app
        self._drain_s = drain_s
        self._nursery = nursery
        self.terminated = trio.Event()
        """What Hypercorn sets when its shutdown begins."""

    @property
    def service(self) -> Service:
        """Of the first model."""
        return self.app.service

    @property
    def models(self) -> Models:
        return self.app.models

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str | tuple[str, ...]] | None = None,
        raw: Iterable[bytes] | None = None,
        ends: bool = True,
        buffered_chunks: int = 1000,
        address: str = "127.0.0.1",
    ) -> Exchange:
        """Start a request; `raw` are the body's pieces as they arrive, `body` is sent as JSON.

        Without `ends` more of it seems to come.

        `path` is the target of the request's first line. A header may be given several times, as a tuple.
        """
        exchange = Exchange(buffered_chunks)
        text = b"" if body is None else json.dumps(body).encode()
        given = {"host": "localhost:8000", **{name.lower(): value for name, value in (headers or {}).items()}}
        if raw is None:
            given.setdefault("content-length", str(len(text)))
        target, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"spec_version": "2.3", "version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(target),
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [
                (name.encode(), value.encode("latin-1"))
                for name, values in given.items()
                for value in ((values,) if isinstance(values, str) else values)
            ],
            "client": (address, 50_000),
            "server": ("127.0.0.1", 8000),
            "state": {},
            "extensions": {
                "corral.transport": {
                    "abort": exchange.abort,
                    "stalled": lambda: exchange.stalled,
                    "terminated": self.terminated,
                    "drain_s": self._drain_s,
                }
            },
        }
        pieces = [text] if raw is None else raw
        self._nursery.start_soon(partial(exchange.run, self.app, scope, pieces, ends=ends))
        return exchange

    def chat(self, text: str = "hello", *, buffered_chunks: int = 1000, **fields: Any) -> Exchange:
        body = {"model": "scripted", "messages": [{"role": "user", "content": text}], **fields}
        return self.send("POST", "/v1/chat/completions", body, buffered_chunks=buffered_chunks)


@asynccontextmanager
async def serving(backend: Backend, *, routes: Routes = table, **settings: Any) -> AsyncIterator[Client]:
    """A running server on a backend, which it closes; at the end, nothing of any request may be left."""
    settings.setdefault("stream_interval_ms", 0)  # a test may hold a step up, and wants the text before it
    read = Settings(**settings)
    async with serving_app(Application(read, lambda: (backend, "scripted"), routes=routes), read) as client:
        yield client
    assert not isinstance(backend, ScriptedBackend) or backend.open_samplers == 0


@asynccontextmanager
async def serving_app(app: Application, settings: Settings) -> AsyncIterator[Client]:
    """A running server; at the end, nothing of any request may be left."""
    to_app, from_test = trio.open_memory_channel[dict[str, Any]](1)
    to_test, from_app = trio.open_memory_channel[dict[str, Any]](1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(app, {"type": "lifespan", "state": {}}, from_test.receive, to_test.send)
        await to_app.send({"type": "lifespan.startup"})
        assert (await from_app.receive())["type"] == "lifespan.startup.complete"
        async with trio.open_nursery() as exchanges:
            client = Client(app, exchanges, settings.drain_s)
            yield client
            await client.models.wait_idle()
            client.models.check_idle()
            exchanges.cancel_scope.cancel()
        await to_app.send({"type": "lifespan.shutdown"})
        assert (await from_app.receive())["type"] == "lifespan.shutdown.complete"
