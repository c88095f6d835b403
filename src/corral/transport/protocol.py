"""What a connection asks of the protocol that it speaks, and what the protocol is given.

The connection knows sockets, time and tasks; the protocol knows bytes, requests and responses. Where HTTP/1.1
and HTTP/2 differ, one of them answers here with what "does not apply" means, and the connection asks nobody
which of the two it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from hypercorn.config import Config
from hypercorn.events import Event
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ConnectionState, HTTPScope, Scope, WorkerContext

from corral.transport.answers import AnsweringStream
from corral.transport.exchange import Send

Put = Callable[[ASGIReceiveEvent], Awaitable[None]]
"""Hands a message to the app of one request."""


class Host(Protocol):
    """The connection, as its protocol sees it."""

    async def send(self, event: Event) -> None:
        """Write bytes, or do what an event asks for. A checkpoint if it writes."""
        ...

    def spawn(self, func: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a task until the connection ends."""
        ...

    def start_app(self, stream_id: int, scope: HTTPScope, send: Send) -> Put:
        """Run the app for the request of one stream. Not a checkpoint."""
        ...

    async def spend(self, parsing_s: float) -> None:
        """Account for processor time that went into what a client sent.

        Pauses if that was more than one connection may take of the event loop. A protocol calls it often, and
        only where another of its tasks may run. Cancel-safe; a checkpoint only if it pauses.
        """
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All that a protocol is given of the server and of the connection it is on."""

    host: Host
    app: AppWrapper
    config: Config
    context: WorkerContext
    state: ConnectionState
    tls: bool
    client: tuple[str, int] | None
    server: tuple[str, int] | None

    def stream(self, stream_id: int, send: Callable[[StreamEvent], Awaitable[None]]) -> HTTPStream:
        """Hypercorn's side of one request: from its events to an ASGI scope, and from messages to events."""
        return AnsweringStream(
            self.app,
            self.config,
            self.context,
            StreamTasks(self.host, stream_id),
            self.tls,
            self.client,
            self.server,
            send,
            stream_id,
        )


@dataclass(frozen=True, slots=True)
class StreamTasks:
    """Hypercorn's TaskGroup for one stream: the connection runs the tasks, and learns whose app it starts."""

    host: Host
    stream_id: int = 0

    async def spawn_app(self, app: AppWrapper, config: Config, scope: Scope, send: Send) -> Put:
        del app, config  # the connection's own
        assert scope["type"] == "http", scope["type"]
        return self.host.start_app(self.stream_id, scope, send)

    def spawn(self, func: Callable[..., Any], *args: Any) -> None:
        self.host.spawn(func, *args)

    async def __aenter__(self) -> Self:
        return self  # the connection has opened its nursery already

    async def __aexit__(self, kind: type, error: BaseException, trace: TracebackType) -> None:
        pass


class HTTPProtocol(ABC):
    """One connection's parser and serializer. Its methods never wait for the app or for the client."""

    @abstractmethod
    async def initiate(self) -> None:
        """Say what this side has to say first."""

    @abstractmethod
    async def handle(self, event: Event) -> None:
        """Take what the client sent, or hear that the connection is closed."""

    @property
    @abstractmethod
    def idle(self) -> bool:
        """No request is being served."""

    @property
    @abstractmethod
    def unread(self) -> bool:
        """The client may still be sending: closing now would reset it, and lose what we wrote last."""

    @property
    def expects_head(self) -> bool:
        """What has come so far is not a whole request head, and the rest of it has `header_timeout_s`."""
        return False

    @property
    def saturated(self) -> bool:
        """More is here than the app has taken or the parser may look at: no more is to be read."""
        return False

    async def room(self) -> None:
        """Wait until not `saturated`. Cancel-safe."""
        return

    @property
    def survives_fin(self) -> bool:
        """A FIN now may come from a client that waits for its answer."""
        return False

    def ahead(self) -> tuple[bytes, bytes]:
        """Bytes that mean nothing yet: (to write now, the prefix that the next write must drop)."""
        return b"", b""

    @abstractmethod
    async def taken(self, stream_id: int, size: int) -> None:
        """The app has read `size` bytes of a stream's body."""

    def drop_nowait(self, stream_id: int) -> bool:
        """End one stream that its client does not read; False if the connection has to go with it.

        If True, what the client is to hear of it still has to be flushed.
        """
        del stream_id
        return False

    def has_stalled(self, stream_id: int) -> bool:
        """The client took nothing of this stream for too long, and lost it alone."""
        del stream_id
        return False

    async def flush(self) -> None:
        """Write what is ready to be said."""
        return

    async def announce_shutdown(self) -> None:
        """Tell the client to take new requests elsewhere; running ones go on."""
        return

    @abstractmethod
    async def time_out(self) -> None:
        """Say what can be said to a client that has taken too long; the connection closes after it."""

    @abstractmethod
    async def fail(self) -> None:
        """Say that this side made a mistake, if that can be said; the connection closes after it."""
