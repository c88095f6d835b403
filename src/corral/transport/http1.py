"""HTTP/1.1 on one connection: Hypercorn's protocol without its waits.

Hypercorn parks whoever parses until the app has taken the last chunk or ended the response, and nothing wakes
it when the client goes. Here parsing never waits: what is too early stays in h11's buffer, and `saturated`
asks the connection to read no more until `room()`.

Knowing where the response stands, this is also who can say a byte ahead of time (`ahead`), to learn whether a
client that said FIN has closed or only half-closed.
"""

from dataclasses import replace
from enum import Enum, auto
from time import thread_time

import h11
import trio
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H2ProtocolAssumedError, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import H11SendableEvent

from corral.errors import CorralError, InvalidRequest, VersionNotSupported
from corral.transport.answers import (
    FAILED,
    REQUEST_LINE_BYTES,
    TOO_SLOW,
    answer_to,
    path_of,
    unreadable,
)
from corral.transport.limits import Limits
from corral.transport.protocol import HTTPProtocol, StreamTasks, Surroundings

# Unread bytes of a connection kept in memory: enough that a fast upload does not stutter.
READ_AHEAD_BYTES = 256 * 1024

# A chunk's size, its extensions and the ends of its lines may take this much; what all chunks of a body take
# beyond that may add up to so much.
CHUNK_FRAMING_BYTES = 16
EXCESS_BYTES = 16 * 1024

# Every head that h11 writes, interim or final, begins with this, also for a client that speaks HTTP/1.0.
STATUS_LINE_START = b"HTTP/1.1 "


class Cut(Event):
    """The connection must end such that the client sees it was cut."""


class Framing(Enum):
    """How a client knows where a response body ends."""

    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()


class HTTP1(HTTPProtocol, H11Protocol):
    """Parses requests, serializes responses."""

    connection: h11.Connection
    stream: HTTPStream | None

    def __init__(self, limits: Limits, around: Surroundings) -> None:
        super().__init__(
            around.app,
            around.config,
            around.context,
            StreamTasks(around.host),
            around.state,
            around.tls,
            around.client,
            around.server,
            around.host.send,
        )
        self._around = around
        self.connection = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.header_bytes)
        self._closed = False
        self._untaken_bytes = 0
        self._room = trio.Event()
        self._framing = Framing.CLOSE
        self._unparsed_bytes = 0  # given to h11, and not in an event yet
        self._excess_bytes = 0  # how much a body's framing has over what it may have
        self._beginning = b""  # of the request's head, to know whose client it is if the rest is no good

    # What the connection asks

    @property
    def idle(self) -> bool:
        return self.stream is None

    @property
    def expects_head(self) -> bool:
        return self.stream is None

    @property
    def survives_fin(self) -> bool:
        """A FIN now may come from a client that waits for its answer.

        It may once its request is whole, unless the response has begun and is framed by our own FIN alone:
        there is then no byte to find out with, and HTTP/1.0 proxies close without a word more.
        """
        if self.stream is None or self.connection.their_state in (h11.SEND_BODY, h11.ERROR):
            return False
        return self.connection.our_state is h11.SEND_RESPONSE or self._framing is not Framing.CLOSE

    @property
    def _is_sending_body(self) -> bool:
        return self.connection.our_state is h11.SEND_BODY

    @property
    def saturated(self) -> bool:
        return self._untaken_bytes + len(self.connection.trailing_data[0]) >= READ_AHEAD_BYTES

    @property
    def unread(self) -> bool:
        done = (h11.DONE, h11.CLOSED, h11.MUST_CLOSE, h11.IDLE)
        return self.connection.their_state not in done or bool(self.connection.trailing_data[0])

    async def room(self) -> None:
        while self.saturated:
            self._room = trio.Event()
            await self._room.wait()

    def ahead(self) -> tuple[bytes, bytes]:
        """Bytes that mean nothing yet: (to write now, the prefix that the next write must drop).

        Before the head it is the beginning of any head. Between two chunks it is a zero: it becomes a leading
        zero of the next chunk's size, or of the last chunk's (RFC 9112, 7.1: 1*HEXDIG and 1*"0"). Inside a
        body of known length nothing can be said, but then the body itself is on its way.
        """
        if self.connection.our_state is h11.SEND_RESPONSE:
            return STATUS_LINE_START, STATUS_LINE_START
        if self.connection.our_state is h11.SEND_BODY and self._framing is Framing.CHUNKED:
            return b"0", b""
        return b"", b""

    async def taken(self, stream_id: int, size: int) -> None:
        del stream_id  # there is one at a time
        self._untaken_bytes -= size
        self._room.set()

    async def time_out(self) -> None:
        if self.stream is None and self.connection.trailing_data[0]:
            await self._answer(TOO_SLOW)

    async def fail(self) -> None:
        await self._answer(FAILED)

    # What Hypercorn's protocol does, and how it is done here

    async def initiate(self) -> None:
        pass  # the client begins

    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData):
            if self.stream is None and len(self._beginning) < REQUEST_LINE_BYTES:
                self._beginning += event.data[:REQUEST_LINE_BYTES]
            self.connection.receive_data(event.data)
            self._unparsed_bytes += len(event.data)
            await self._handle_events()
        elif isinstance(event, Closed):
            self._closed = True
            await self._close_stream()

    async def _handle_events(self) -> None:
        # Two tasks may be in here: the connection's, and one that goes on after a response has ended. Each
        # event is dispatched without a checkpoint after it was taken from h11, so their order cannot mix.
        while not self._closed:
            if self.connection.they_are_waiting_for_100_continue:
                headers = self.config.response_headers("h11")
                await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=headers))
            if self.connection.their_state is h11.MUST_CLOSE:
                return  # that was its last request: what else it says (a stray CRLF) does it no harm
            began_s = thread_time()
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                in_line = b"\n" not in self.connection.trailing_data[0].lstrip(b"\r\n")
                in_body = self.stream is not None
                await self._refuse(unreadable(error.error_status_hint, in_body=in_body, in_line=in_line))
                return
            if isinstance(event, h11.Request):
                self._unparsed_bytes = len(self.connection.trailing_data[0])
                self._excess_bytes = 0
                await self._check_protocol(event)
                if not event.http_version.startswith(b"1."):
                    await self._refuse(VersionNotSupported("this connection speaks HTTP/1.1"))
                    return
                await self.send(Updated(idle=False))
                await self._create_stream(event)
            elif event is h11.NEED_DATA or event is h11.PAUSED:
                return
            elif isinstance(event, h11.ConnectionClosed):
                if self.stream is None:
                    await self.send(Closed())
                return
            elif self.stream is None:
                return
            elif isinstance(event, h11.Data):
                self._untaken_bytes += len(event.data)
                await self.stream.handle(Body(stream_id=STREAM_ID, data=bytes(event.data)))
                if self._is_mostly_framing(event):
                    await self._refuse(InvalidRequest("the body is mostly chunk extensions"))
                    return
                await self._around.host.spend(thread_time() - began_s)
            elif isinstance(event, h11.EndOfMessage):
                await self.stream.handle(EndBody(stream_id=STREAM_ID))

    def _is_mostly_framing(self, part: h11.Data) -> bool:
        """Whether the sizes and extensions of chunks have become out of all proportion to what is in them.

        Chunks of one byte are fine, so each may cost CHUNK_FRAMING_BYTES, and more if there is more in it.
        What goes beyond that adds up. (The rule of Go's net/http, after CVE-2023-39326.)
        """
        unparsed_bytes = len(self.connection.trailing_data[0])
        framing_bytes = self._unparsed_bytes - unparsed_bytes - len(part.data)
        self._unparsed_bytes = unparsed_bytes
        allowed_bytes = 2 * len(part.data) + (CHUNK_FRAMING_BYTES if part.chunk_end else 0)
        self._excess_bytes = max(0, self._excess_bytes + framing_bytes - allowed_bytes)
        return self._excess_bytes > EXCESS_BYTES

    async def _refuse(self, error: CorralError) -> None:
        """Answer what cannot be served, if an answer can still be given, and ask for the end."""
        await self._close_stream()
        await self._answer(error)
        await self.send(Closed())

    async def _create_stream(self, request: h11.Request) -> None:
        # No WebSocket: nothing here serves one, and an upgrade may be left unanswered.
        stream = self.stream = self._around.stream(STREAM_ID, self.stream_send)
        await stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode("ascii"),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1
        await self.context.mark_request()
        if stream.closed:  # answered without the app: not a name of this server
            await self._maybe_recycle()

    async def _check_protocol(self, request: h11.Request) -> None:
        # HTTP/2 with prior knowledge. The upgrade from HTTP/1.1 ("h2c") is gone from RFC 9113.
        if (request.method, request.target, request.http_version) == (b"PRI", b"*", b"2.0"):
            raise H2ProtocolAssumedError(b"PRI * HTTP/2.0\r\n\r\n" + self.connection.trailing_data[0])

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Body) and self._framing is Framing.CHUNKED and self._is_sending_body:
            # What h11 makes of it, without asking h11: that costs more than the rest of a small write.
            if event.data:
                await self.send(RawData(data=b"%x\r\n%b\r\n" % (len(event.data), event.data)))
            return
        if isinstance(event, Response):
            if self.connection.their_state is h11.SEND_BODY:
                # The connection will end with this answer. Unless it is told, a client that has sent its body
                # meanwhile takes the connection for reusable, and loses its next request on it.
                event = replace(event, headers=[*event.headers, (b"connection", b"close")])
            names = {name.lower() for name, _ in event.headers}
            head_only = self.stream is not None and self.stream.scope["method"] == "HEAD"
            if head_only or event.status_code in (204, 304) or b"content-length" in names:
                self._framing = Framing.LENGTH
            elif (self.connection.their_http_version or b"1.0") >= b"1.1":
                self._framing = Framing.CHUNKED
            else:
                self._framing = Framing.CLOSE
        await super().stream_send(event)

    async def _maybe_recycle(self) -> None:
        cut_short = self.connection.our_state is h11.SEND_BODY
        await self._close_stream()
        if cut_short and self._framing is Framing.CLOSE:
            await self.send(Cut())  # a FIN would look like the end of the body
        elif (
            self.connection.our_state is h11.DONE
            and self.connection.their_state is h11.DONE
            and not self.context.terminated.is_set()
        ):
            self.connection.start_next_cycle()
            self._beginning = self.connection.trailing_data[0][:REQUEST_LINE_BYTES]
            self.response = None
            self.scope = None
            await self.send(Updated(idle=True))
            if any(self.connection.trailing_data):  # the next request is here already, or the FIN is
                self.task_group.spawn(self._handle_events)
        else:
            await self.send(Closed())

    async def _close_stream(self) -> None:
        stream, self.stream = self.stream, None
        self._untaken_bytes = 0
        self._room.set()
        if stream is not None:
            await stream.handle(StreamClosed(stream_id=STREAM_ID))

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            await trio.lowlevel.checkpoint()  # the app does not know yet, and must let others run
        else:
            await self.send(RawData(data=data))

    async def _answer(self, error: CorralError) -> None:
        """Tell the client what is wrong with its request, unless an answer has begun; it is the last word."""
        if self.connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = answer_to(error, path_of(self._beginning))
            headers = [*answer.headers, (b"connection", b"close"), *self.config.response_headers("h11")]
            await self._send_h11_event(h11.Response(status_code=answer.status, headers=headers))
            if not self._beginning.startswith(b"HEAD "):
                await self._send_h11_event(h11.Data(data=answer.body))
            await self._send_h11_event(h11.EndOfMessage())
