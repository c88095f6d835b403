"""A server on a real loopback socket that speaks from a script, and remembers how its clients went."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from tools.clients.target import Target

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def delta(text: str, *, chunk_id: str = "c1", finish: str = "null") -> bytes:
    """One chunk of a chat stream."""
    choice = f'{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":{finish}}}'
    return f'data: {{"id":"{chunk_id}","choices":[{choice}]}}\n\n'.encode()


def usage(tokens: int, *, chunk_id: str = "c1") -> bytes:
    """The usage chunk."""
    counts = f'{{"prompt_tokens":7,"completion_tokens":{tokens}}}'
    return f'data: {{"id":"{chunk_id}","choices":[],"usage":{counts}}}\n\n'.encode()


def chunked(data: bytes) -> bytes:
    """One HTTP/1.1 chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST = chunked(b"")


@dataclass
class Visit:
    """One client: what it sent first, what it sent after that, and how it went ("fin" or "rst")."""

    request: bytes = b""
    more: bytes = b""
    went: str = ""
    gone: trio.Event = field(default_factory=trio.Event)


Script = Callable[[trio.SocketStream], Awaitable[None]]


class FakeServer:
    """Each connection gets its request read and `script` played; `visits` keeps what happened."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.visits: list[Visit] = []
        self.arrived = trio.Event()

    async def handle(self, stream: trio.SocketStream) -> None:
        visit = Visit()
        self.visits.append(visit)
        while not _is_whole(visit.request):
            data = bytes(await stream.receive_some())
            if not data:
                return
            visit.request += data
        self.arrived.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, stream, visit)
            try:
                await self._script(stream)
            except trio.BrokenResourceError:
                visit.went = visit.went or "rst"  # the kernel tells of it once: here or in _listen
                visit.gone.set()
            nursery.cancel_scope.cancel()

    async def _listen(self, stream: trio.SocketStream, visit: Visit) -> None:
        try:
            while data := await stream.receive_some():
                visit.more += data
            visit.went = visit.went or "fin"
        except trio.BrokenResourceError:
            visit.went = "rst"
        except trio.ClosedResourceError:
            visit.went = "closed by the script"
        visit.gone.set()


def _is_whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    if not end:
        return False
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(body) >= int(value)
    return True


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[tuple[FakeServer, Target]]:
    """A fake server on a free port of loopback, and where it is."""
    server = FakeServer(script)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    listeners[0].socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, server.handle, listeners)
        yield server, Target("127.0.0.1", port, model="m")
        nursery.cancel_scope.cancel()
