"""The HTTP/2 client against h2's server side on a real socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events
import pytest
import trio
from tests.tools.fakeserver import DONE, delta, usage

from tools.clients.habits import Habit, Leave
from tools.clients.http2 import chat_h2
from tools.clients.target import Chat, Target

ASK = Chat([{"role": "user", "content": "Hi"}], 8, stream=True)
WHOLE = delta("Hel") + delta("lo", finish='"stop"') + usage(2) + DONE


class H2Server:
    """Answers one request with `body`; `endless` repeats it as far as the window goes. Keeps what came."""

    def __init__(self, body: bytes, *, endless: bool = False, reset_when_blocked: bool = False) -> None:
        self._body = body
        self._endless = endless
        self._reset_when_blocked = reset_when_blocked
        self.seen: list[h2.events.Event] = []
        self.sent_bytes = 0
        self.gone = trio.Event()

    async def handle(self, stream: trio.SocketStream) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        await stream.send_all(connection.data_to_send())
        try:
            while data := await stream.receive_some():
                for event in connection.receive_data(data):
                    self.seen.append(event)
                    if isinstance(event, h2.events.StreamEnded):
                        self._answer(connection, event.stream_id)
                await stream.send_all(connection.data_to_send())
        except trio.BrokenResourceError:
            pass
        self.gone.set()

    def _answer(self, connection: h2.connection.H2Connection, stream: int) -> None:
        connection.send_headers(stream, [(":status", "200"), ("content-type", "text/event-stream")])
        while True:
            room = min(connection.local_flow_control_window(stream), len(self._body))
            connection.send_data(
                stream, self._body[:room], end_stream=not self._endless and room == len(self._body)
            )
            self.sent_bytes += room
            if room < len(self._body):
                if self._reset_when_blocked:
                    connection.reset_stream(stream, 11)
                return
            if not self._endless:
                return
            if self.sent_bytes > 3 * len(self._body) and not self._reset_when_blocked:
                return

    def saw(self, kind: type[h2.events.Event]) -> bool:
        return any(isinstance(event, kind) for event in self.seen)


@asynccontextmanager
async def serving(server: H2Server) -> AsyncIterator[Target]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, server.handle, listeners)
        yield Target("127.0.0.1", listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def test_a_whole_answer() -> None:
    async with serving(H2Server(WHOLE)) as target:
        answer = await chat_h2(target, ASK)
    assert answer.is_whole
    assert (answer.status, answer.text, answer.completion_tokens) == (200, "Hello", 2)


@pytest.mark.parametrize(
    ("leave", "event"),
    [
        (Leave.RST_STREAM, h2.events.StreamReset),
        (Leave.GOAWAY, h2.events.ConnectionTerminated),
        (Leave.FIN, None),
        (Leave.RST, None),
    ],
)
async def test_leaving_is_what_it_says_on_the_wire(leave: Leave, event: type[h2.events.Event] | None) -> None:
    server = H2Server(delta("x"), endless=True)
    async with serving(server) as target:
        answer = await chat_h2(target, ASK, Habit(leave=leave, leave_after_deltas=1))
        await server.gone.wait()
    assert answer.ending == "left"
    assert server.saw(h2.events.StreamReset) == (event is h2.events.StreamReset)
    assert server.saw(h2.events.ConnectionTerminated) == (event is h2.events.ConnectionTerminated)


async def test_a_staller_gives_no_window_and_notices_its_eviction() -> None:
    server = H2Server(delta("x" * 100), endless=True, reset_when_blocked=True)
    async with serving(server) as target:
        answer = await chat_h2(target, ASK, Habit(stalls=True))
    assert answer.ending == "evicted"
    assert server.sent_bytes == 512
    assert not server.saw(h2.events.WindowUpdated)
