"""A chat over HTTP/2, with what only HTTP/2 has: RST_STREAM, GOAWAY, a window that stays shut.

One connection per request, as in http1.py, so that figures compare. Plain text uses prior knowledge
(RFC 9113 section 3.3), TLS uses ALPN.
"""

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import trio

from tools.clients.connection import Line, connect, root_cause
from tools.clients.framing import FramingError
from tools.clients.habits import POLITE, Habit, Leave
from tools.clients.sse import Answer, SseReader, read_whole
from tools.clients.target import Chat, Target

_WINDOW_BYTES = 1 << 20
_STALL_WINDOW_BYTES = 512


class _Exchange:
    """One request on one HTTP/2 connection."""

    def __init__(self, line: Line, answer: Answer, habit: Habit) -> None:
        self._line = line
        self._answer = answer
        self._habit = habit
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self._stream = 0
        self._events = SseReader(answer)
        self._is_event_stream = False
        self._whole = bytearray()

    async def send(self, target: Target, body: bytes) -> None:
        """Preface, settings, headers and body."""
        window = _STALL_WINDOW_BYTES if self._habit.stalls else _WINDOW_BYTES
        self._h2.initiate_connection()
        self._h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self._stream = self._h2.get_next_available_stream_id()
        headers = target.headers
        authority = headers.pop("host")
        pseudo = [
            (":method", "POST"),
            (":authority", authority),
            (":scheme", "https" if target.tls else "http"),
            (":path", f"{target.path}/chat/completions"),
        ]
        fields = {**headers, "content-type": "application/json", "content-length": str(len(body))}
        self._h2.send_headers(self._stream, [*pseudo, *fields.items()])
        for at in range(0, len(body), 16_384):
            self._h2.send_data(self._stream, body[at : at + 16_384], end_stream=at + 16_384 >= len(body))
        await self._line.send(self._h2.data_to_send(), self._habit.send_bytes_s)

    async def read(self) -> None:
        """Read to the end of the stream, or to where the habit stops; then `ending` is still empty."""
        answer, habit = self._answer, self._habit
        while not answer.ending:
            data = await self._line.receive()
            now_s = trio.current_time()
            if not data:
                raise FramingError("connection closed inside a stream")
            if answer.first_byte_s is None:
                answer.first_byte_s = now_s
            try:
                events = self._h2.receive_data(data)
            except h2.exceptions.ProtocolError as error:
                raise FramingError(f"h2: {error}") from error
            for event in events:
                self._take(event, now_s)
            if out := self._h2.data_to_send():
                await self._line.send(out)
            deltas = len(answer.content_s)
            if habit.leave_after_deltas is not None and deltas >= habit.leave_after_deltas:
                return
            if habit.read_bytes_s is not None:
                await trio.sleep(len(data) / habit.read_bytes_s)

    def _take(self, event: h2.events.Event, now_s: float) -> None:
        answer = self._answer
        if isinstance(event, h2.events.ResponseReceived):
            fields = {name.decode(): value.decode() for name, value in event.headers}
            answer.status = int(fields[":status"])
            self._is_event_stream = fields.get("content-type", "").startswith("text/event-stream")
        elif isinstance(event, h2.events.DataReceived):
            answer.body_bytes += len(event.data)
            if self._is_event_stream:
                self._events.feed(event.data, now_s)
            else:
                self._whole += event.data
            # a staller keeps answering pings and settings, but never gives the window back
            if not self._habit.stalls:
                self._h2.acknowledge_received_data(event.flow_controlled_length, self._stream)
        elif isinstance(event, h2.events.StreamEnded):
            self._end(now_s)
        elif isinstance(event, h2.events.StreamReset):
            answer.ending = "evicted" if self._habit.stalls else "cut"
            answer.error = answer.error or f"RST_STREAM {event.error_code!r}"
        elif isinstance(event, h2.events.ConnectionTerminated):
            answer.ending = "evicted" if self._habit.stalls else "cut"
            answer.error = answer.error or f"GOAWAY {event.error_code!r}"

    def _end(self, now_s: float) -> None:
        answer = self._answer
        if answer.status != 200:
            answer.ending = "refused"
            answer.error = self._whole[:300].decode(errors="replace")
            return
        if self._is_event_stream:
            self._events.finish()
        else:
            read_whole(answer, bytes(self._whole), now_s)
        answer.ending = "failed" if answer.error else "done"

    async def leave(self) -> None:
        """Go as the habit says; RST_STREAM and GOAWAY are sent on the wire before the connection closes."""
        how = self._habit.leave
        if how is Leave.RST_STREAM:
            self._h2.reset_stream(self._stream, h2.errors.ErrorCodes.CANCEL)
        elif how is Leave.GOAWAY:
            self._h2.close_connection()
        if out := self._h2.data_to_send():
            await self._line.send(out)
        self._line.leave(how)


async def chat_h2(
    target: Target, request: Chat, habit: Habit = POLITE, *, leaving: trio.CancelScope | None = None
) -> Answer:
    """`http1.chat` over HTTP/2: same habits, same answer. Raises nothing but Cancelled."""
    answer = Answer(sent_s=trio.current_time())
    try:
        async with connect(target, receive_buffer_bytes=habit.receive_buffer_bytes, alpn="h2") as line:
            exchange = _Exchange(line, answer, habit)
            with leaving or trio.CancelScope() as scope:
                await exchange.send(target, request.body(target.model))
                answer.sent_s = trio.current_time()
                if habit.stalls:
                    scope.deadline = answer.sent_s + habit.stall_limit_s
                if habit.leave_after_s is not None:
                    scope.deadline = answer.sent_s + habit.leave_after_s
                await exchange.read()
            if not answer.ending:
                answer.ending = "left"
                answer.ended_s = trio.current_time()
                await exchange.leave()
    except (OSError, trio.BrokenResourceError, FramingError) as error:
        answer.ending = "evicted" if habit.stalls and answer.content_s else "cut"
        answer.error = answer.error or root_cause(error)
    if answer.ended_s is None:
        answer.ended_s = trio.current_time()
    return answer
