"""An upstream on a socket of loopback that answers from a script, and remembers how its clients went."""

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from corral.engine.upstream.address import address_of
from corral.engine.upstream.options import UpstreamOptions

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
TCP_CLOSE = 7
"""Of a connection that is no more, in Linux' tcp_states.h; one that was half-closed is another."""
LAST = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One HTTP/1.1 chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def frame(value: object) -> bytes:
    """One event of a stream."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def delta(text: str | None = None, *, finish: str | None = None, **more: Any) -> bytes:
    """A chunk of a chat."""
    said: dict[str, Any] = {} if text is None else {"content": text}
    return frame({"choices": [{"index": 0, "delta": said | more, "finish_reason": finish}]})


def usage(prompt: Any, completion: Any, cached: int | None = None) -> bytes:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    if cached is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": cached}
    return frame({"choices": [], "usage": counts})


@dataclass(eq=False)
class Visit:
    """A client that asked for an answer: what, and how it went ("rst", "fin", or "" while it is there)."""

    head: bytes
    body: Any
    stream: trio.SocketStream
    went: str = ""
    gone: trio.Event = field(default_factory=trio.Event)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def say(self, *frames: bytes) -> None:
        """The head of a stream and these events."""
        await self.send(STREAM + b"".join(map(chunk, frames)))

    async def answer(self, status: int, value: object, headers: bytes = b"") -> None:
        """All of an answer that is no stream."""
        await self.send(whole(status, value, headers))


Play = Callable[[Visit], Awaitable[None]]


async def words(visit: Visit) -> None:
    """Counts, a word a millisecond, as far as it may; refuses what is too long as llama-server does."""
    prompt = sum(len(message["content"].split()) for message in visit.body["messages"])
    if prompt > 9_999:
        error = {"type": "exceed_context_size_error", "n_prompt_tokens": prompt, "n_ctx": 10_000}
        await visit.answer(400, {"error": {"code": 400, "message": "it exceeds the context size", **error}})
        return
    limit = visit.body.get("max_tokens", 100)
    await visit.say(
        frame({"choices": [], "prompt_progress": {"total": prompt, "processed": prompt, "cache": 0}})
    )
    for number in range(limit):
        await visit.send(chunk(delta(f"{number} ")))
        await trio.sleep(0.001)
    await visit.send(chunk(delta(finish="length")) + chunk(usage(prompt, limit)) + chunk(DONE) + LAST)


class ScriptedUpstream:
    """As llama-server shows itself. Each answer is played by `play`; `busy` are those that it computes.

    For one that left it goes on until the test says `stop_computing`, if it `lingers`.
    """

    def __init__(
        self, play: Play = words, *, slots: int = 2, ctx_tokens: int = 10_000, owner: str = "llamacpp"
    ):
        self.play = play
        self.slots = slots
        self.ctx_tokens = ctx_tokens
        self.owner = owner
        self.lingers = False
        self.busy = 0
        self.healthy = True
        self.shows_slots = True
        self.hangs = False
        """Takes connections, and says nothing on them."""
        self.aborted: list[str] = []
        self.visits: list[Visit] = []
        self.others: list[str] = []
        """The paths of what was asked beside answers."""
        self.arrived = trio.lowlevel.ParkingLot()
        self.looked = trio.lowlevel.ParkingLot()
        self.port = 0
        self._stopped = trio.Event()

    def stop_computing(self) -> None:
        self._stopped.set()
        self._stopped = trio.Event()

    def options(self, **more: Any) -> UpstreamOptions:
        return UpstreamOptions(address_of(f"http://127.0.0.1:{self.port}"), **more)

    async def visit(self, number: int) -> Visit:
        """The so manyth client, from 0, once it has asked."""
        while len(self.visits) <= number:
            await self.arrived.park()
        return self.visits[number]

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Again, on the port that it had before."""
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self._handle, listeners)
            task_status.started()

    async def _handle(self, stream: trio.SocketStream) -> None:
        request = b""
        while not _iswhole(request):
            try:
                data = bytes(await stream.receive_some())
            except trio.BrokenResourceError:
                return
            if not data:
                return
            request += data
        head, _, body = request.partition(b"\r\n\r\n")
        path = head.split(b" ")[1].decode()
        if path == "/abort_request":
            self.aborted.append(json.loads(body)["rid"])
        elif body:
            await self._answer(Visit(head, json.loads(body), stream))
            return
        self.others.append(path)
        self.looked.unpark_all()
        if self.hangs:
            await trio.sleep_forever()
        await stream.send_all(self._told(path))

    async def _answer(self, visit: Visit) -> None:
        self.visits.append(visit)
        self.busy += 1
        self.arrived.unpark_all()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, visit, nursery.cancel_scope)
                try:
                    await self.play(visit)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    visit.went = visit.went or "rst"
                nursery.cancel_scope.cancel()
            if visit.went and self.lingers:
                visit.gone.set()
                await self._stopped.wait()
        finally:
            self.busy -= 1
            visit.gone.set()

    async def _listen(self, visit: Visit, playing: trio.CancelScope) -> None:
        try:
            while await visit.stream.receive_some():
                pass
            # Of a reset the kernel tells once, perhaps to who is sending: then its state still says so.
            [state] = visit.stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
            visit.went = visit.went or ("rst" if state == TCP_CLOSE else "fin")
        except trio.BrokenResourceError:
            visit.went = "rst"
        except trio.ClosedResourceError:
            return
        playing.cancel()

    def _told(self, path: str) -> bytes:
        match path:
            case "/v1/models":
                return whole(200, {"data": [{"id": "scripted", "owned_by": self.owner}]})
            case "/props":
                settings = {"n_ctx": self.ctx_tokens}
                return whole(200, {"total_slots": self.slots, "default_generation_settings": settings})
            case "/slots" if not self.shows_slots:
                return whole(501, {"error": {"message": "This server does not support slots endpoint."}})
            case "/slots":
                busy = [{"is_processing": number < self.busy} for number in range(max(self.slots, self.busy))]
                return whole(200, busy)
            case "/health":
                return whole(200 if self.healthy else 503, {})
            case _:
                return whole(200 if path == "/abort_request" else 404, {})


def whole(status: int, value: object, headers: bytes = b"") -> bytes:
    """An answer of JSON."""
    body = json.dumps(value).encode()
    head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % (status, len(body))
    return head + headers + b"\r\n" + body


def _iswhole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    if not end:
        return False
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(body) >= int(value)
    return True


@asynccontextmanager
async def serving(*upstreams: ScriptedUpstream) -> AsyncIterator[None]:
    """They listen until the block ends."""
    async with trio.open_nursery() as nursery:
        for upstream in upstreams:
            await nursery.start(upstream.serve)
        yield
        nursery.cancel_scope.cancel()
