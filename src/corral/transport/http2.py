"""HTTP/2 on one connection: Hypercorn's protocol with bounded buffers and streams that fail alone.

Differences, and why:
- A stream's buffer is bounded also while its window is closed (an empty read is no room), and a stream that
  takes nothing for `send_timeout_s` is reset.
- A body that ends early is ended with RST_STREAM, so that no client takes it for whole or waits for the rest.
- Window is given back when the app has read the bytes: an app that does not read holds up its own stream, not
  the parser and its siblings.
- What arrives for a stream that is over is dropped, but its bytes are given back to the connection's window.
- A request that cannot become an ASGI scope is answered 400 on its stream.
- A client that resets streams faster than anybody changes their mind loses the connection (CVE-2023-44487).
- So does one that sends many frames which carry nothing of a request.
- PRIORITY is ignored (RFC 9113, 5.3.2), and with it a tree that any client could grow.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from time import thread_time
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import h2.settings
import trio
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import (
    Body,
    EndBody,
    InformationalResponse,
    Request,
    Response,
    StreamClosed,
    Trailers,
)
from hypercorn.protocol.events import (
    Event as StreamEvent,
)
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.utils import filter_pseudo_headers
from hyperframe.frame import GoAwayFrame
from priority.priority import MissingStreamError

from corral.errors import InvalidRequest
from corral.transport.allowance import Allowance
from corral.transport.answers import answer_to
from corral.transport.frames import FrameCutter, Piece
from corral.transport.limits import Limits
from corral.transport.protocol import HTTPProtocol, StreamTasks, Surroundings
from corral.transport.stream_buffer import StreamBuffer

# Window of the whole connection for request bodies. HTTP/2's own 64 KiB would let one app that does not read
# hold up every other upload on the connection; a stream keeps its 64 KiB.
CONNECTION_WINDOW_BYTES = 1024 * 1024
_DEFAULT_WINDOW_BYTES = 65_535

# Streams a client may reset while they are being answered: so many at once, so many per second for long. More
# is an attack that lets us begin requests it never means to wait for.
RESETS_AT_ONCE = 200
RESETS_PER_S = 50

# Frames that carry nothing of a request (SETTINGS, PING, WINDOW_UPDATE, PRIORITY, empty DATA, unknown ones):
# so many at once, so many per second for long, and some for each DATA frame of ours, which clients answer
# with WINDOW_UPDATEs for stream and connection, and with a PING to measure the way. (Envoy counts alike.)
IDLE_FRAMES_AT_ONCE = 2000
IDLE_FRAMES_PER_S = 200
IDLE_FRAMES_PER_SENT = 4

_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PATH = re.compile(rb"(/[\x21-\x7e]*|\*)")


class HTTP2(HTTPProtocol, H2Protocol):
    """Parses frames into requests, writes responses in turns of one DATA frame."""

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
        self._limits = limits
        self._requests: dict[int, HTTPStream] = {}  # in the place of `streams`, which may hold WebSockets
        self._buffers: dict[int, StreamBuffer] = {}  # in the place of `stream_buffers`
        self._uploads: set[int] = set()  # streams whose request is not whole yet
        self._stalled: set[int] = set()  # streams that were reset because they took nothing
        self._at_odds = False  # one of us broke the protocol
        self._frames = FrameCutter()
        self._resets = Allowance(RESETS_AT_ONCE, RESETS_PER_S)
        self._idle_frames = Allowance(IDLE_FRAMES_AT_ONCE, IDLE_FRAMES_PER_S)
        self.connection.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self.config.h2_max_concurrent_streams,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: limits.header_bytes,
            },
        )
        self.connection.decoder.max_header_list_size = limits.header_bytes

    # What the connection asks

    @property
    def idle(self) -> bool:
        return not self._requests

    @property
    def unread(self) -> bool:
        """The client goes on sending what it does not know to be wrong, until it has read our GOAWAY."""
        return self._at_odds

    def has_stalled(self, stream_id: int) -> bool:
        return stream_id in self._stalled

    async def time_out(self) -> None:
        await self._go_away(ErrorCodes.NO_ERROR)

    async def fail(self) -> None:
        await self._go_away(ErrorCodes.INTERNAL_ERROR)

    async def announce_shutdown(self) -> None:
        """Tell the client to take new requests elsewhere; running ones go on.

        h2 can only say GOAWAY as the last thing it says, so this one is made by hand.
        """
        frame = GoAwayFrame(0, last_stream_id=self.connection.highest_inbound_stream_id)
        await self.send(RawData(data=frame.serialize()))

    def drop_nowait(self, stream_id: int) -> bool:
        self._reset_nowait(stream_id, ErrorCodes.ENHANCE_YOUR_CALM)
        return True

    async def flush(self) -> None:
        await self._flush()

    async def taken(self, stream_id: int, size: int) -> None:
        """Give the window back."""
        self._acknowledge(stream_id, size)
        await self._flush()

    # What Hypercorn's protocol does, and how it is done here

    async def initiate(self, headers: object = None, settings: object = None) -> None:
        del headers, settings  # of an upgrade from HTTP/1.1, which is not served
        self.connection.initiate_connection()
        self.connection.increment_flow_control_window(CONNECTION_WINDOW_BYTES - _DEFAULT_WINDOW_BYTES)
        await self._flush()
        self.task_group.spawn(self.send_task)

    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData):
            for piece in self._frames.cut(event.data):
                if self.closed:
                    return
                await self._parse(piece)
        elif isinstance(event, Closed):
            self.closed = True
            for stream_id in list(self._requests):
                await self._close_stream(stream_id)
            for stream_id in list(self._buffers):
                self._forget(stream_id)
            await self.has_data.set()

    async def _parse(self, piece: Piece) -> None:
        if piece.idle_frames and self._idle_frames.charge(piece.idle_frames):
            await self._leave(ErrorCodes.ENHANCE_YOUR_CALM)
            return
        began_s = thread_time()
        try:
            events = self.connection.receive_data(piece.data)
        except ProtocolError:
            self._at_odds = True
            await self._flush()  # h2 has its GOAWAY ready
            await self.send(Closed())
            return
        await self._handle_events(events)
        parsing_s = thread_time() - began_s
        if piece.is_too_long and not self.closed:
            await self._leave(ErrorCodes.FRAME_SIZE_ERROR)
            return
        await self._flush()
        await self._around.host.spend(parsing_s)

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                if self.context.terminated.is_set():
                    self.connection.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
                else:
                    await self._create_stream(event)
            elif isinstance(event, h2.events.DataReceived):
                await self._receive_body(event)
            elif isinstance(event, h2.events.StreamEnded):
                self._uploads.discard(event.stream_id)
                if event.stream_id in self._requests:
                    await self._requests[event.stream_id].handle(EndBody(stream_id=event.stream_id))
            elif isinstance(event, h2.events.StreamReset):
                if event.stream_id in self._requests and self._resets.charge():
                    await self._leave(ErrorCodes.ENHANCE_YOUR_CALM)
                    return
                self._forget(event.stream_id)
                await self._close_stream(event.stream_id)
                await self.send(Updated(idle=self.idle))
            elif isinstance(event, h2.events.WindowUpdated):
                await self._window_updated(event.stream_id)
            elif isinstance(event, h2.events.RemoteSettingsChanged):
                if h2.settings.SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
                    await self._window_updated(None)
            elif isinstance(event, h2.events.ConnectionTerminated):
                await self.send(Closed())
                return

    async def _receive_body(self, event: h2.events.DataReceived) -> None:
        stream = self._requests.get(event.stream_id)
        if stream is None or stream.closed:
            self._acknowledge(event.stream_id, event.flow_controlled_length)
            return
        self._acknowledge(event.stream_id, event.flow_controlled_length - len(event.data))  # padding
        await stream.handle(Body(stream_id=event.stream_id, data=event.data))

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        stream_id = request.stream_id
        pseudo = {name: value for name, value in request.headers if name.startswith(b":")}
        method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
        if not _METHOD.fullmatch(method) or not _PATH.fullmatch(path):
            self._refuse(stream_id, method, path)
            return
        stream = self._requests[stream_id] = self._around.stream(stream_id, self.stream_send)
        self._buffers[stream_id] = StreamBuffer(self._limits.notsent_lowat_bytes)
        self.priority.insert_stream(stream_id)
        self.priority.block(stream_id)
        if request.stream_ended is None:
            self._uploads.add(stream_id)
        await self.send(Updated(idle=False))
        await stream.handle(
            Request(
                stream_id=stream_id,
                headers=filter_pseudo_headers(request.headers),
                http_version="2",
                method=method.decode("ascii").upper(),
                raw_path=path,
                state=self.connection_state,
            )
        )
        await self.context.mark_request()
        if stream.closed:  # answered without the app: not a name of this server
            await self._end_stream(stream_id)

    def _refuse(self, stream_id: int, method: bytes, path: bytes) -> None:
        """Answer what is no request, in full if the client has given window for it."""
        answer = answer_to(InvalidRequest("this is not a request"), unquote(path.decode("latin-1")))
        headers = [(b":status", b"%d" % answer.status), *answer.headers, *self.config.response_headers("h2")]
        has_room = self.connection.local_flow_control_window(stream_id) >= len(answer.body)
        if not has_room:
            headers = [header for header in headers if header[0] != b"content-length"]
        has_body = has_room and method != b"HEAD"
        self.connection.send_headers(stream_id, headers, end_stream=not has_body)
        if has_body:
            self.connection.send_data(stream_id, answer.body, end_stream=True)

    async def stream_send(self, event: StreamEvent) -> None:
        stream_id = event.stream_id
        buffer = self._buffers.get(stream_id)
        if isinstance(event, StreamClosed):
            await self._end_stream(stream_id)
        elif buffer is None or buffer.dropped:
            await trio.lowlevel.checkpoint()  # reset meanwhile: the disconnect is on its way to the app
        elif isinstance(event, (InformationalResponse, Response)):
            headers = [(b":status", b"%d" % event.status_code), *event.headers]
            try:
                self.connection.send_headers(stream_id, headers + self.config.response_headers("h2"))
            except ProtocolError:
                return
            await self._flush()
        elif isinstance(event, Body):
            buffer.push_nowait(event.data)
            await self._unblock(stream_id)
            await self._pace(stream_id, buffer, lambda: buffer.room)
        elif isinstance(event, EndBody):
            buffer.end()
            await self._unblock(stream_id)
            await self._pace(stream_id, buffer, lambda: buffer.dropped)  # END_STREAM is said
        elif isinstance(event, Trailers):
            await self._pace(stream_id, buffer, lambda: buffer.drained)
            try:
                self.connection.send_headers(stream_id, event.headers, end_stream=True)
            except ProtocolError:
                return
            buffer.end()
            self._forget(stream_id)
            await self._flush()

    async def _pace(self, stream_id: int, buffer: StreamBuffer, reached: Callable[[], bool]) -> None:
        """Hold the app until its stream has moved; reset a stream that does not."""
        if not await buffer.wait_for(reached, self._limits.send_timeout_s):
            self._stalled.add(stream_id)
            self._reset_nowait(stream_id, ErrorCodes.ENHANCE_YOUR_CALM)
            await self._flush()
            await self._close_stream(stream_id)

    async def _end_stream(self, stream_id: int) -> None:
        """The app has no more to say: make sure the client learns how that was meant."""
        buffer = self._buffers.get(stream_id)
        if buffer is not None and not buffer.ended:
            self._reset_nowait(stream_id, ErrorCodes.INTERNAL_ERROR)  # the body was cut short
        elif stream_id in self._uploads and buffer is None:
            self._reset_nowait(stream_id, ErrorCodes.NO_ERROR)  # answered: stop uploading (RFC 9113, 8.1)
        self._uploads.discard(stream_id)
        await self._close_stream(stream_id)
        await self._flush()
        if self.idle and self.context.terminated.is_set():
            await self._go_away(ErrorCodes.NO_ERROR)
        await self.send(Updated(idle=self.idle))

    async def _send_data(self, stream_id: int) -> None:
        # No checkpoint between taking bytes from the buffer and handing them to h2: a stream cannot be
        # dropped in between, and whoever waits for the buffer to drain finds END_STREAM said.
        buffer = self._buffers.get(stream_id)
        if buffer is None:
            self._forget(stream_id)
            return
        try:
            window = self.connection.local_flow_control_window(stream_id)
            data = buffer.pop_nowait(max(0, min(window, self.connection.max_outbound_frame_size)))
            finished = buffer.ended and buffer.drained
            if data:
                self.connection.send_data(stream_id, data, end_stream=finished)
                self._idle_frames.earn(IDLE_FRAMES_PER_SENT)
            elif finished:
                self.connection.end_stream(stream_id)  # needs no window
            else:
                self.priority.block(stream_id)
            if finished:
                self._forget(stream_id)
        except ProtocolError:  # h2 will not have another byte of it: the connection is ending
            self._forget(stream_id)
            await self._close_stream(stream_id)
        await self._flush()

    async def _unblock(self, stream_id: int) -> None:
        self.priority.unblock(stream_id)
        await self.has_data.set()

    async def _window_updated(self, stream_id: int | None) -> None:
        for known in list(self._buffers) if not stream_id else [stream_id]:
            if known in self._buffers:
                self.priority.unblock(known)
        await self.has_data.set()

    async def _close_stream(self, stream_id: int) -> None:
        stream = self._requests.pop(stream_id, None)
        if stream is not None:
            await stream.handle(StreamClosed(stream_id=stream_id))

    def _reset_nowait(self, stream_id: int, code: ErrorCodes) -> None:
        """End a stream with RST_STREAM, its buffer with it. The frame still has to be flushed."""
        with suppress(ProtocolError):  # over already, or the whole connection is
            self.connection.reset_stream(stream_id, code)
        self._forget(stream_id)

    def _forget(self, stream_id: int) -> None:
        """Drop a stream's buffer and its turn. Idempotent."""
        buffer = self._buffers.pop(stream_id, None)
        if buffer is not None:
            buffer.drop()
        with suppress(MissingStreamError):
            self.priority.remove_stream(stream_id)

    def _acknowledge(self, stream_id: int, size: int) -> None:
        if size and not self.closed:
            with suppress(ProtocolError):  # the connection is closing: nobody waits for window any more
                self.connection.acknowledge_received_data(size, stream_id)

    async def _leave(self, code: ErrorCodes) -> None:
        """Say GOAWAY and ask for the end."""
        await self._go_away(code)
        await self.send(Closed())

    async def _go_away(self, code: ErrorCodes) -> None:
        self._at_odds = code is not ErrorCodes.NO_ERROR
        with suppress(ProtocolError):  # said already
            self.connection.close_connection(code)
        await self._flush()
