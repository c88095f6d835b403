"""HTTP/2: whatever the client does to its streams, their siblings and the connection."""

import h2.events
import h2.settings
import pytest
import trio
from h2.errors import ErrorCodes
from tests.transport.wires import (
    APPS,
    CHUNK,
    ENDINGS,
    LIMITS,
    Ending,
    H2Client,
    Lab,
    close,
    is_reset,
    laboratory,
)
from trio.testing import MockClock

from corral.transport.http2 import IDLE_FRAMES_AT_ONCE, RESETS_AT_ONCE

anyapp = pytest.mark.parametrize("app", APPS)
ending = pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)


async def client_of(lab: Lab, *, window: int = 65535, **how: int) -> H2Client:
    client = H2Client(await lab.connect(**how), window=window)
    await client.flush()
    return client


PATHS = {"body": "/body", "before": "/before", "mid-stream": "/stream"}


async def reach(lab: Lab, client: H2Client, phase: str) -> tuple[int, str]:
    """Bring one stream of a client into a phase of its request."""
    path = PATHS[phase]
    stream_id = await client.get(path, method="POST" if phase == "body" else "GET", end=phase != "body")
    if phase == "body":
        client.h2.send_data(stream_id, b"some")
        await client.flush()
    await lab.journal.until_started(path)
    if phase == "mid-stream":
        await client.until(h2.events.DataReceived, stream_id)
        assert client.body[stream_id] == CHUNK
    return stream_id, path


async def is_alive(client: H2Client, path: str = "/sibling") -> bool:
    stream_id = await client.get(path)
    await client.until(h2.events.StreamEnded, stream_id)
    return client.body[stream_id] == b"answer"


@anyapp
@ending
@pytest.mark.parametrize("phase", PATHS)
async def test_a_client_that_leaves_is_gone_at_once(
    autojump_clock: MockClock, app: str, end: Ending, phase: str
) -> None:
    async with laboratory(autojump_clock, app) as lab:
        client = await client_of(lab)
        _, path = await reach(lab, client, phase)
        await end(client.stream)
        await lab.journal.until_ended(path, within_s=0.1)
        await lab.until_empty(within_s=0.1)


@ending
async def test_an_idle_client_that_leaves_is_gone_at_once(autojump_clock: MockClock, end: Ending) -> None:
    async with laboratory(autojump_clock) as lab:
        client = await client_of(lab)
        assert await is_alive(client)
        await end(client.stream)
        await lab.until_empty(within_s=0.1)


@anyapp
@pytest.mark.parametrize("phase", PATHS)
async def test_a_reset_stream_ends_alone(autojump_clock: MockClock, app: str, phase: str) -> None:
    async with laboratory(autojump_clock, app) as lab:
        client = await client_of(lab)
        stream_id, path = await reach(lab, client, phase)
        client.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
        await client.flush()
        await lab.journal.until_ended(path, within_s=0.1)
        assert await is_alive(client)


@anyapp
@pytest.mark.parametrize("phase", ["before", "mid-stream"])
async def test_goaway_ends_every_stream(autojump_clock: MockClock, app: str, phase: str) -> None:
    async with laboratory(autojump_clock, app) as lab:
        client = await client_of(lab)
        _, path = await reach(lab, client, phase)
        client.h2.close_connection()
        await client.flush()
        await lab.journal.until_ended(path, within_s=0.1)
        await lab.until_empty(within_s=0.1)


@anyapp
@pytest.mark.parametrize("phase", ["before", "mid-stream"])
async def test_half_closed_is_how_requests_are(autojump_clock: MockClock, app: str, phase: str) -> None:
    async with laboratory(autojump_clock, app) as lab:
        client = await client_of(lab)
        stream_id, path = await reach(lab, client, phase)
        await trio.sleep(100)
        lab.journal.event(path).set()
        await client.until(h2.events.StreamEnded, stream_id)
        assert client.body[stream_id] == (b"answer" if phase == "before" else CHUNK + b"rest")


@anyapp
@pytest.mark.parametrize("phase", PATHS)
@pytest.mark.parametrize(
    "junk",
    [
        b"\x00" * 40,
        b"\xff" * 40,
        b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",  # WINDOW_UPDATE by 0
        b"\x00\x00\x01\x01\x04\x00\x00\x00\x63\xff",  # HEADERS that HPACK cannot read
    ],
    ids=["zeros", "ones", "window", "hpack"],
)
async def test_bad_frames_end_their_connection(
    autojump_clock: MockClock, app: str, phase: str, junk: bytes
) -> None:
    async with laboratory(autojump_clock, app) as lab:
        other = await client_of(lab)
        client = await client_of(lab)
        _, path = await reach(lab, client, phase)
        await client.stream.send_all(junk)
        await client.until(h2.events.ConnectionTerminated)
        await lab.journal.until_ended(path, within_s=0.1)
        assert await is_alive(other)


@anyapp
async def test_a_stalled_stream_is_reset_and_its_siblings_go_on(autojump_clock: MockClock, app: str) -> None:
    async with laboratory(autojump_clock, app) as lab:
        client = await client_of(lab, window=20_000)
        client.give_window = False
        stalled = await client.get("/flood")
        await lab.journal.until_started("/flood")
        await trio.sleep(1)
        assert lab.journal.sent_bytes["/flood"] < 20_000 + 2 * LIMITS.notsent_lowat_bytes
        assert await is_alive(client, "/sibling-1")
        began = trio.current_time()
        await lab.journal.until_ended("/flood", within_s=5)
        assert trio.current_time() - began == pytest.approx(LIMITS.send_timeout_s - 1, abs=0.2)
        event = await client.until(h2.events.StreamReset, stalled)
        assert event.error_code == ErrorCodes.ENHANCE_YOUR_CALM
        assert lab.journal.extensions["/flood"]["stalled"]()
        assert not lab.journal.extensions["/sibling-1"]["stalled"]()
        assert await is_alive(client, "/sibling-2")


@anyapp
@pytest.mark.parametrize("window", [0, 20_000])
async def test_abort_resets_the_stream_alone(autojump_clock: MockClock, app: str, window: int) -> None:
    async with laboratory(autojump_clock, app) as lab:
        client = await client_of(lab, window=window)
        client.give_window = False
        stream_id = await client.get("/flood")
        await lab.journal.until_started("/flood")
        await trio.sleep(0.1)
        before = trio.current_time()
        lab.journal.extensions["/flood"]["abort"]()
        await lab.journal.until_ended("/flood")
        assert trio.current_time() - before < 0.05
        await client.until(h2.events.StreamReset, stream_id)
        client.h2.increment_flow_control_window(100_000)
        client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 65535})
        await client.flush()
        assert await is_alive(client)


@anyapp
async def test_a_stalled_connection_is_reset(autojump_clock: MockClock, app: str) -> None:
    async with laboratory(autojump_clock, app) as lab:
        client = await client_of(lab, window=2**30, receive_buffer=4096)
        client.h2.increment_flow_control_window(2**30)
        await client.get("/flood")
        await lab.journal.until_started("/flood")
        await trio.sleep(1)
        for _ in range(3):  # each asks for an answer that has to wait behind the stalled write
            client.h2.ping(b"12345678")
            await client.flush()
        # The kernel may move a little more when the pings come: one more patience at most.
        await lab.journal.until_ended("/flood", within_s=2 * LIMITS.send_timeout_s)
        assert lab.journal.extensions["/flood"]["stalled"]()
        await lab.until_empty()
        assert await is_reset(client.stream)


@anyapp
async def test_abort_drops_a_connection_that_stands_still(autojump_clock: MockClock, app: str) -> None:
    async with laboratory(autojump_clock, app) as lab:
        client = await client_of(lab, window=2**30, receive_buffer=4096)
        client.h2.increment_flow_control_window(2**30)
        await client.get("/flood")
        await client.get("/before")
        await lab.journal.until_started("/before")
        await trio.sleep(1)
        before = trio.current_time()
        lab.journal.extensions["/flood"]["abort"]()
        await lab.journal.until_ended("/flood")
        assert trio.current_time() - before < 0.05  # the app need not wait for that
        await lab.journal.until_ended("/before")
        assert trio.current_time() - before == pytest.approx(LIMITS.evict_grace_s, abs=0.1)
        assert await is_reset(client.stream)


@anyapp
async def test_handlers_cancelled_while_they_write_leave_the_connection_in_step(
    autojump_clock: MockClock, app: str
) -> None:
    """Header compression has a memory: bytes h2 has let go of must not be lost."""
    async with laboratory(autojump_clock, app) as lab:
        client = await client_of(lab, window=2**30, receive_buffer=4096)
        client.h2.increment_flow_control_window(2**30)
        await client.get("/flood")
        await lab.journal.until_started("/flood")
        await trio.sleep(0.5)
        doomed = []
        for number in range(5):
            doomed.append(await client.get(f"/before-{number}"))
            lab.journal.event(f"/before-{number}").set()
        await trio.sleep(0.5)  # their HEADERS now wait for the lock that the flood holds
        for stream_id in doomed:
            client.h2.reset_stream(stream_id)
        client.h2.reset_stream(1)
        await client.flush()
        assert await is_alive(client)
        assert await is_alive(client, "/again")


@anyapp
async def test_a_crash_is_answered_500(autojump_clock: MockClock, app: str) -> None:
    async with laboratory(autojump_clock, app) as lab:
        client = await client_of(lab)
        stream_id = await client.get("/crash")
        event = await client.until(h2.events.ResponseReceived, stream_id)
        assert (b":status", b"500") in event.headers
        assert await is_alive(client)


@anyapp
async def test_a_crash_in_a_body_resets_the_stream(autojump_clock: MockClock, app: str) -> None:
    async with laboratory(autojump_clock, app) as lab:
        client = await client_of(lab)
        stream_id = await client.get("/crash-late")
        event = await client.until(h2.events.StreamReset, stream_id)
        assert event.error_code == ErrorCodes.INTERNAL_ERROR
        assert await is_alive(client)


@anyapp
async def test_an_early_answer_ends_the_upload_and_late_data_is_dropped(
    autojump_clock: MockClock, app: str
) -> None:
    async with laboratory(autojump_clock, app) as lab:
        client = await client_of(lab)
        for _ in range(40):  # 1.3 MB of late data: more than the window of the connection
            stream_id = await client.get("/ok", method="POST", end=False)
            frame = client.h2.data_to_send()
            await lab.journal.until(lambda: lab.journal.ended["/ok"] > 0)
            lab.journal.ended.clear()
            lab.journal.started.clear()
            for _ in range(2):
                client.h2.send_data(stream_id, b"x" * 16384)
            frame += client.h2.data_to_send()
            await client.stream.send_all(frame)
            event = await client.until(h2.events.StreamReset, stream_id)
            assert event.error_code == ErrorCodes.NO_ERROR
            assert client.body[stream_id] == b"answer"
        assert await is_alive(client)


async def test_an_app_that_does_not_read_holds_up_its_stream_alone(autojump_clock: MockClock) -> None:
    async with laboratory(autojump_clock) as lab:
        client = await client_of(lab)
        deaf = await client.get("/deaf", method="POST", end=False)
        for _ in range(3):
            client.h2.send_data(deaf, b"x" * 16384)
        await client.flush()
        await lab.journal.until_started("/deaf")
        reading = await client.get("/body", method="POST", end=False)
        sent = 0
        while sent < 300_000:
            while client.h2.local_flow_control_window(reading) < 16384:
                await client.until_more()
            client.h2.send_data(reading, b"x" * 16384)
            await client.flush()
            sent += 16384
        client.h2.end_stream(reading)
        await client.flush()
        await client.until(h2.events.StreamEnded, reading)
        assert client.body[reading] == b"%d" % sent
        assert client.h2.local_flow_control_window(deaf) == 65535 - 3 * 16384
        lab.journal.event("/deaf").set()
        client.h2.end_stream(deaf)
        await client.flush()
        await client.until(h2.events.StreamEnded, deaf)
        assert len(lab.journal.bodies["/deaf"]) == 3 * 16384


@anyapp
@pytest.mark.parametrize("path", [b"/\xff\xfe", b"", b"nonsense", b"/a b"], ids=repr)
async def test_a_path_that_is_none_is_answered_400(autojump_clock: MockClock, app: str, path: bytes) -> None:
    async with laboratory(autojump_clock, app) as lab:
        client = await client_of(lab)
        client.h2.config.validate_outbound_headers = False
        client.h2.config.normalize_outbound_headers = False
        stream_id = client.h2.get_next_available_stream_id()
        client.h2.send_headers(
            stream_id,
            [(b":method", b"GET"), (b":path", path), (b":scheme", b"http"), (b":authority", b"x")],
            end_stream=True,
        )
        await client.flush()
        if path:
            event = await client.until(h2.events.ResponseReceived, stream_id)
            assert (b":status", b"400") in event.headers
            assert await is_alive(client)
        else:
            await client.until(h2.events.ConnectionTerminated)  # h2 finds that one itself


async def test_many_priorities_are_nothing(autojump_clock: MockClock) -> None:
    async with laboratory(autojump_clock) as lab:
        client = await client_of(lab)
        for stream_id in range(1001, 1001 + 2 * 1300, 2):
            client.h2.prioritize(stream_id, weight=7, depends_on=stream_id - 2)
        await client.flush()
        assert await is_alive(client)


async def test_what_was_refused_at_shutdown_is_said(autojump_clock: MockClock) -> None:
    async with laboratory(autojump_clock) as lab:
        client = await client_of(lab)
        stream_id, path = await reach(lab, client, "mid-stream")
        idle = await client_of(lab)
        assert await is_alive(idle)
        await lab.context.terminated.set()
        goaway = await client.until(h2.events.ConnectionTerminated)
        assert (goaway.error_code, goaway.last_stream_id) == (ErrorCodes.NO_ERROR, stream_id)
        await idle.until(h2.events.ConnectionTerminated, within_s=0.1)
        lab.journal.event(path).set()
        await lab.journal.until_ended(path)
        await lab.until_empty()


async def test_an_idle_connection_is_closed(autojump_clock: MockClock) -> None:
    async with laboratory(autojump_clock) as lab:
        client = await client_of(lab)
        began = trio.current_time()
        await client.until(h2.events.ConnectionTerminated)
        assert trio.current_time() - began == pytest.approx(LIMITS.header_timeout_s, abs=0.1)
        client = await client_of(lab)
        assert await is_alive(client)
        began = trio.current_time()
        await client.until(h2.events.ConnectionTerminated)
        assert trio.current_time() - began == pytest.approx(LIMITS.idle_connection_s, abs=0.1)
        await close(client.stream)


async def test_rapid_resets_end_the_connection(autojump_clock: MockClock) -> None:
    async with laboratory(autojump_clock) as lab:
        client = await client_of(lab)
        other = await client_of(lab)
        for number in range(RESETS_AT_ONCE + 50):
            stream_id = await client.get(f"/before-{number}")
            client.h2.reset_stream(stream_id)
        await client.flush()
        event = await client.until(h2.events.ConnectionTerminated)
        assert event.error_code == ErrorCodes.ENHANCE_YOUR_CALM
        assert await is_alive(other)


async def test_resets_now_and_then_are_fine(autojump_clock: MockClock) -> None:
    async with laboratory(autojump_clock) as lab:
        client = await client_of(lab)
        for number in range(RESETS_AT_ONCE + 50):
            stream_id = await client.get(f"/before-{number}")
            client.h2.reset_stream(stream_id)
            await client.flush()
            await trio.sleep(0.05)
        assert await is_alive(client)


# Frames that carry nothing, as they lie on the wire; stream 1 has a body to come.
IDLE_FRAMES = {
    "empty DATA": b"\0\0\0\0\0\0\0\0\1",
    "SETTINGS": b"\0\0\0\4\0\0\0\0\0",
    "SETTINGS ACK": b"\0\0\0\4\1\0\0\0\0",
    "PING": b"\0\0\x08\6\0\0\0\0\0" + b"12345678",
    "WINDOW_UPDATE": b"\0\0\4\x08\0\0\0\0\0\0\0\0\1",
    "PRIORITY": b"\0\0\5\2\0\0\0\0\3\0\0\0\0\7",
    "unknown": b"\0\0\0\xbe\0\0\0\0\0",
}


@pytest.mark.parametrize("frame", IDLE_FRAMES.values(), ids=IDLE_FRAMES)
async def test_a_flood_of_frames_that_carry_nothing_ends_its_connection(
    autojump_clock: MockClock, frame: bytes
) -> None:
    async with laboratory(autojump_clock) as lab:
        other = await client_of(lab)
        client = await client_of(lab)
        await client.get("/body", method="POST", end=False)
        async with trio.open_nursery() as nursery:  # its own acknowledgements must not stop the flood
            nursery.start_soon(client.stream.send_all, frame * (IDLE_FRAMES_AT_ONCE + 100))
            event = await client.until(h2.events.ConnectionTerminated)
        assert event.error_code == ErrorCodes.ENHANCE_YOUR_CALM
        await lab.journal.until_ended("/body")
        assert await is_alive(other)


@pytest.mark.parametrize("frame", IDLE_FRAMES.values(), ids=IDLE_FRAMES)
async def test_many_frames_that_carry_nothing_are_fine_and_others_are_served_between_them(
    autojump_clock: MockClock, frame: bytes
) -> None:
    async with laboratory(autojump_clock) as lab:
        client = await client_of(lab)
        upload = await client.get("/body", method="POST", end=False)
        await lab.journal.until_started("/body")
        began = trio.current_time()
        await client.stream.send_all(frame * 1000)
        client.h2.send_data(upload, b"body", end_stream=True)
        await client.flush()
        await client.until(h2.events.StreamEnded, upload)
        assert client.body[upload] == b"4"
        # Parsing a thousand frames takes some ms, more than may be taken without a pause.
        assert trio.current_time() - began > 0.001


async def test_answers_to_what_it_is_sent_are_no_flood(autojump_clock: MockClock) -> None:
    """A client may say WINDOW_UPDATE twice and PING once for every DATA frame, however many there are."""
    async with laboratory(autojump_clock) as lab:
        client = await client_of(lab)
        client.give_window = False
        stream_id = await client.get("/flood")
        frames = answered = 0
        while answered < IDLE_FRAMES_AT_ONCE + 500:
            assert await client.until_more()
            frames = sum(isinstance(event, h2.events.DataReceived) for event in client.events)
            for _ in range(frames - answered // 3):
                client.h2.increment_flow_control_window(4096)
                client.h2.increment_flow_control_window(4096, stream_id)
                client.h2.ping(b"12345678")
                answered += 3
            await client.flush()
        assert not any(isinstance(event, h2.events.ConnectionTerminated) for event in client.events)
        client.h2.reset_stream(stream_id)
        await client.flush()
        assert await is_alive(client)


@ending
async def test_an_app_that_never_listens_is_stopped_by_what_it_sends(
    autojump_clock: MockClock, end: Ending, caplog: pytest.LogCaptureFixture
) -> None:
    async with laboratory(autojump_clock) as lab:
        client = await client_of(lab)
        await client.get("/blind")
        await lab.journal.until_started("/blind")
        await trio.sleep(1)
        await end(client.stream)
        await lab.journal.until_ended("/blind", within_s=0.1)
    assert not caplog.records
