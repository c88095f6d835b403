"""HTTP/1.1: whatever the client does to its socket, in every phase of a request."""

from dataclasses import replace

import h11
import pytest
import trio
from tests.transport.wires import (
    APPS,
    CHUNK,
    ENDINGS,
    LIMITS,
    Ending,
    Lab,
    close,
    is_reset,
    laboratory,
    read_all,
    read_until,
    reset,
)
from trio.testing import MockClock

from corral.transport.http1 import READ_AHEAD_BYTES

anyapp = pytest.mark.parametrize("app", APPS)
ending = pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)


def get(path: str, version: str = "1.1", extra: str = "") -> bytes:
    return f"GET {path} HTTP/{version}\r\nHost: x\r\n{extra}\r\n".encode()


def post(path: str, length: int, body: bytes = b"") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode() + body


async def reach(lab: Lab, phase: str, pipelined: bytes = b"") -> tuple[trio.SocketStream, str]:
    """Bring a client into a phase of its request."""
    if phase == "idle":
        stream = await lab.request(get("/ok"))
        assert (await read_until(stream, b"answer")).startswith(b"HTTP/1.1 200 ")
        return stream, "/ok"
    path = {"body": "/body", "before": "/before", "mid-stream": "/stream"}[phase]
    head = post(path, 1000, b"some") if phase == "body" else get(path)
    stream = await lab.request(head + pipelined)
    await lab.journal.until_started(path)
    if phase == "mid-stream":
        await read_until(stream, CHUNK)
    return stream, path


PHASES = ["body", "before", "mid-stream", "idle"]


@anyapp
@ending
@pytest.mark.parametrize("phase", PHASES)
async def test_a_client_that_leaves_is_gone_at_once(
    autojump_clock: MockClock, app: str, end: Ending, phase: str
) -> None:
    async with laboratory(autojump_clock, app) as lab:
        stream, path = await reach(lab, phase)
        await end(stream)
        await lab.journal.until_ended(path, within_s=0.1)
        await lab.until_empty(within_s=0.1)


@anyapp
@ending
@pytest.mark.parametrize("phase", ["before", "mid-stream"])
@pytest.mark.parametrize("junk", [b"\r\n", get("/next"), b"\x00" * 100], ids=["CRLF", "request", "zeros"])
async def test_pipelined_bytes_hide_no_leaving(
    autojump_clock: MockClock, app: str, end: Ending, phase: str, junk: bytes
) -> None:
    async with laboratory(autojump_clock, app) as lab:
        stream, path = await reach(lab, phase, pipelined=junk)
        await end(stream)
        await lab.journal.until_ended(path, within_s=0.1)
        await lab.until_empty(within_s=0.1)
        assert lab.journal.started["/next"] == 0


@pytest.mark.parametrize("last", [get("/ok", "1.0"), get("/ok", extra="Connection: close\r\n")])
async def test_bytes_after_the_last_request_do_no_harm(autojump_clock: MockClock, last: bytes) -> None:
    async with laboratory(autojump_clock) as lab:
        stream = await lab.request(last + b"\r\n")
        answer = await read_all(stream)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"answer" in answer


async def test_an_app_that_floods_does_not_keep_a_bad_request_alive(autojump_clock: MockClock) -> None:
    async with laboratory(autojump_clock) as lab:
        head = b"POST /blind HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"
        stream = await lab.request(head)
        assert (await read_until_closed(stream)).startswith(b"HTTP/1.1 400 ")
        await lab.journal.until_ended("/blind")


@anyapp
async def test_leaving_is_seen_behind_more_bytes_than_are_read(autojump_clock: MockClock, app: str) -> None:
    async with laboratory(autojump_clock, app) as lab:
        stream = await lab.request(get("/before"))
        await lab.journal.until_started("/before")
        await stream.send_all(b"\x00" * (READ_AHEAD_BYTES + 32768))
        await trio.sleep(0.1)
        await close(stream)
        await lab.journal.until_ended("/before", within_s=0.1)
        await lab.until_empty()


@anyapp
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_half_closed_before_the_response_it_still_comes(
    autojump_clock: MockClock, app: str, version: str
) -> None:
    async with laboratory(autojump_clock, app) as lab:
        stream = await lab.request(get("/before", version))
        await stream.send_eof()
        await lab.journal.until_started("/before")
        await trio.sleep(100)
        lab.journal.event("/before").set()
        answer = await read_all(stream)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.count(b"HTTP/1.1") == 1
        assert b"answer" in answer
        await close(stream)
        await lab.until_empty()


@anyapp
async def test_half_closed_in_a_stream_the_rest_still_comes(autojump_clock: MockClock, app: str) -> None:
    async with laboratory(autojump_clock, app) as lab:
        stream, path = await reach(lab, "mid-stream")
        await stream.send_eof()
        await trio.sleep(100)
        lab.journal.event(path).set()
        assert await read_all(stream) == b"04\r\nrest\r\n0\r\n\r\n"  # one zero said ahead, part of the size
        await close(stream)


async def test_half_closed_in_a_body_of_known_length_nothing_is_said_ahead(autojump_clock: MockClock) -> None:
    async with laboratory(autojump_clock) as lab:
        stream = await lab.request(get("/length"))
        await read_until(stream, b"first")
        await stream.send_eof()
        await trio.sleep(LIMITS.send_timeout_s - 1)
        lab.journal.event("/length").set()
        assert await read_all(stream) == b"rest"
        await close(stream)


async def test_leaving_in_a_paused_body_of_known_length_is_seen_in_the_end(
    autojump_clock: MockClock,
) -> None:
    async with laboratory(autojump_clock) as lab:
        stream = await lab.request(get("/length"))
        await read_until(stream, b"first")
        await close(stream)
        await lab.journal.until_ended("/length", within_s=LIMITS.send_timeout_s + 0.1)


@anyapp
async def test_half_closed_after_two_requests_both_are_answered(autojump_clock: MockClock, app: str) -> None:
    async with laboratory(autojump_clock, app) as lab:
        stream = await lab.request(get("/before") + get("/ok"))
        await stream.send_eof()
        await lab.journal.until_started("/before")
        await trio.sleep(1)
        lab.journal.event("/before").set()
        assert (await read_all(stream)).count(b"answer") == 2
        await close(stream)


@anyapp
@ending
@pytest.mark.parametrize("phase", ["before", "mid-stream"])
async def test_half_closed_and_then_gone(
    autojump_clock: MockClock, app: str, end: Ending, phase: str
) -> None:
    async with laboratory(autojump_clock, app) as lab:
        stream, path = await reach(lab, phase)
        await stream.send_eof()
        await trio.sleep(100)
        assert not lab.journal.ended[path]
        await end(stream)
        if end is close:  # nothing tells but a write: a keepalive, or the next event
            lab.journal.event(path).set()
        await lab.journal.until_ended(path, within_s=0.1)
        await lab.until_empty(within_s=0.1)


@anyapp
async def test_half_closed_in_its_upload_a_client_hears_400(autojump_clock: MockClock, app: str) -> None:
    async with laboratory(autojump_clock, app) as lab:
        stream, path = await reach(lab, "body")
        await stream.send_eof()
        assert (await read_all(stream)).startswith(b"HTTP/1.1 400 ")
        await lab.journal.until_ended(path)
        await close(stream)


@pytest.mark.parametrize("phase", ["start", "idle"])
async def test_half_closed_while_idle_is_closed(autojump_clock: MockClock, phase: str) -> None:
    async with laboratory(autojump_clock) as lab:
        stream = await lab.connect() if phase == "start" else (await reach(lab, "idle"))[0]
        await stream.send_eof()
        await read_all(stream, within_s=0.1)
        await close(stream)


async def test_http10_stream_ends_with_a_fin(autojump_clock: MockClock) -> None:
    """Its body is framed by our own FIN: no byte can be said ahead, and a proxy's FIN means it is gone."""
    async with laboratory(autojump_clock) as lab:
        stream = await lab.request(get("/stream", "1.0"))
        await read_until(stream, CHUNK)
        await stream.send_eof()
        await lab.journal.until_ended("/stream", within_s=0.1)
        await close(stream)


@anyapp
async def test_a_stalled_client_is_reset(autojump_clock: MockClock, app: str) -> None:
    async with laboratory(autojump_clock, app) as lab:
        stream = await lab.request(get("/flood"), receive_buffer=4096)
        await lab.journal.until_started("/flood")
        began = trio.current_time()
        await lab.journal.until_ended("/flood", within_s=10)
        assert lab.journal.extensions["/flood"]["stalled"]()
        assert 3.9 < trio.current_time() - began < 5
        await lab.until_empty()
        assert await is_reset(stream)
        await close(stream)


@anyapp
@ending
async def test_a_stalled_client_that_leaves_is_gone_at_once(
    autojump_clock: MockClock, app: str, end: Ending
) -> None:
    async with laboratory(autojump_clock, app) as lab:
        stream = await lab.request(get("/flood"), receive_buffer=4096)
        await lab.journal.until_started("/flood")
        await trio.sleep(1)
        await end(stream)
        await lab.journal.until_ended("/flood", within_s=0.1)
        assert not lab.journal.extensions["/flood"]["stalled"]()


@anyapp
async def test_a_slow_reader_is_not_a_stalled_one(autojump_clock: MockClock, app: str) -> None:
    async with laboratory(autojump_clock, app) as lab:
        stream = await lab.request(get("/flood"), receive_buffer=4096)
        received = 0
        for _ in range(40):
            await trio.sleep(1)
            received += len(await stream.receive_some(16384))
        assert trio.current_time() > 5 * LIMITS.send_timeout_s
        assert not lab.journal.ended["/flood"]
        assert received > 100_000
        await close(stream)


@anyapp
@pytest.mark.parametrize("path", ["/flood", "/before", "/stream"])
async def test_abort_resets(autojump_clock: MockClock, app: str, path: str) -> None:
    async with laboratory(autojump_clock, app) as lab:
        stream = await lab.request(get(path), receive_buffer=4096)
        await lab.journal.until_started(path)
        await trio.sleep(0.5)
        before = trio.current_time()
        lab.journal.extensions[path]["abort"]()
        lab.journal.extensions[path]["abort"]()
        await lab.journal.until_ended(path)
        await lab.until_empty()
        assert trio.current_time() - before < 0.1
        assert await is_reset(stream)
        await close(stream)


async def test_abort_after_the_response_leaves_the_next_one_alone(autojump_clock: MockClock) -> None:
    async with laboratory(autojump_clock) as lab:
        stream = await lab.request(get("/ok"))
        await read_until(stream, b"0\r\n\r\n")
        await lab.journal.until_ended("/ok")
        lab.journal.extensions["/ok"]["abort"]()
        await stream.send_all(get("/also"))
        await read_until(stream, b"0\r\n\r\n")
        await close(stream)


@anyapp
async def test_connections_close_when_they_should(autojump_clock: MockClock, app: str) -> None:
    async with laboratory(autojump_clock, app) as lab:
        for head, stays_s in [
            (get("/ok", extra="Connection: close\r\n"), 0),
            (get("/ok", "1.0"), 0),
            (get("/ok"), LIMITS.idle_connection_s),
        ]:
            stream = await lab.request(head)
            before = trio.current_time()
            assert b"answer" in await read_all(stream)
            assert trio.current_time() - before == pytest.approx(stays_s, abs=0.1)
            await close(stream)


@pytest.mark.parametrize("start", [b"", b"GET /ok HT"])
async def test_a_head_must_come_whole_and_in_time(autojump_clock: MockClock, start: bytes) -> None:
    async with laboratory(autojump_clock) as lab:
        stream = await lab.request(get("/ok"))
        await read_until(stream, b"0\r\n\r\n")
        await stream.send_all(start)
        before = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def trickle() -> None:
                while start:
                    await trio.sleep(0.5)
                    await stream.send_all(b"x")

            nursery.start_soon(trickle)
            answer = await read_until_closed(stream)
            nursery.cancel_scope.cancel()
        assert answer.startswith(b"HTTP/1.1 408 ") if start else answer == b""
        expected = LIMITS.header_timeout_s if start else LIMITS.idle_connection_s
        assert trio.current_time() - before == pytest.approx(expected, abs=0.6)
        await close(stream)


async def read_until_closed(stream: trio.SocketStream) -> bytes:
    received = b""
    try:
        while data := await stream.receive_some(4096):
            received += data
    except trio.BrokenResourceError:
        pass
    return received


async def test_a_connection_that_says_nothing_is_closed(autojump_clock: MockClock) -> None:
    async with laboratory(autojump_clock) as lab:
        stream = await lab.connect()
        before = trio.current_time()
        assert await read_all(stream) == b""
        assert trio.current_time() - before == pytest.approx(LIMITS.header_timeout_s, abs=0.1)
        await close(stream)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"NONSENSE\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20000, b"431"),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"\r\n\r\n\r\n", b"400"),
    ],
)
async def test_bad_requests_are_answered_and_closed(
    autojump_clock: MockClock, sent: bytes, status: bytes
) -> None:
    async with laboratory(autojump_clock) as lab:
        stream = await lab.request(sent)
        answer = await read_until_closed(stream)
        assert answer.startswith(b"HTTP/1.1 " + status)
        await close(stream)
        await lab.until_empty(within_s=3)


@anyapp
async def test_an_early_answer_reaches_a_client_that_still_sends(autojump_clock: MockClock, app: str) -> None:
    async with laboratory(autojump_clock, app) as lab:
        stream = await lab.request(post("/ok", 50_000_000))
        received = b""

        async def upload() -> None:
            with_body = b"x" * 65536
            try:
                while True:
                    await stream.send_all(with_body)
            except trio.BrokenResourceError:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            received = await read_until(stream, b"answer")
            nursery.cancel_scope.cancel()
        assert received.startswith(b"HTTP/1.1 200 ")
        await close(stream)
        await lab.until_empty()


@anyapp
async def test_an_answer_before_the_whole_body_says_that_it_is_the_last(
    autojump_clock: MockClock, app: str
) -> None:
    async with laboratory(autojump_clock, app) as lab:
        stream = await lab.connect()
        await stream.send_all(b"POST /ok HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nwh")
        head = await read_until(stream, b"\r\n\r\n")
        assert b"connection: close\r\n" in head.lower()
        await stream.send_all(b"le")
        assert b"answer" in head + await read_all(stream)
        await close(stream)
    async with laboratory(autojump_clock, app) as lab:
        stream = await lab.connect()
        await stream.send_all(b"POST /ok HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nwhole")
        assert b"connection: close" not in (await read_until(stream, b"\r\n\r\n")).lower()
        await close(stream)


async def test_an_app_that_does_not_read_does_not_fill_the_memory(autojump_clock: MockClock) -> None:
    async with laboratory(autojump_clock) as lab:
        total = 12_000_000
        stream = await lab.request(post("/deaf", total))
        sent = 0
        with trio.move_on_after(5):
            while True:
                await stream.send_all(b"x" * 65536)
                sent += 65536
        assert sent < 8_000_000  # in the kernel's buffers, most of it
        lab.journal.event("/deaf").set()
        while sent < total:
            piece = min(65536, total - sent)
            await stream.send_all(b"x" * piece)
            sent += piece
        await close(stream)


async def test_half_closed_after_an_upload_that_is_read_slowly(autojump_clock: MockClock) -> None:
    """The FIN is seen while part of the request still lies in the kernel: it must not count yet."""
    total = READ_AHEAD_BYTES + 65536
    async with laboratory(autojump_clock) as lab:
        stream = await lab.request(post("/deaf", total, b"x" * total))
        await stream.send_eof()
        await trio.sleep(10)
        lab.journal.event("/deaf").set()
        assert b"answer" in await read_all(stream)
        assert len(lab.journal.bodies["/deaf"]) == total


@ending
async def test_an_app_that_does_not_read_is_told_of_the_end(autojump_clock: MockClock, end: Ending) -> None:
    async with laboratory(autojump_clock) as lab:
        stream = await lab.request(post("/deaf", 50_000_000))
        with trio.move_on_after(1):
            while True:
                await stream.send_all(b"x" * 65536)
        await end(stream)
        await trio.sleep(0.2)
        lab.journal.event("/deaf").set()
        await lab.journal.until_ended("/deaf")
        assert "/deaf" not in lab.journal.bodies


@anyapp
async def test_a_crash_is_answered_500_and_logged_once(
    autojump_clock: MockClock, app: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with laboratory(autojump_clock, app) as lab:
        stream = await lab.request(get("/crash"))
        assert (await read_until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 500 ")
        await close(stream)
    assert sum("a bug in a handler" in str(r.exc_info) for r in caplog.records) == 1


@anyapp
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_crash_in_a_body_leaves_it_unfinished(
    autojump_clock: MockClock, app: str, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with laboratory(autojump_clock, app) as lab:
        stream = await lab.request(get("/crash-late", version))
        if version == "1.0":
            assert await is_reset(stream)
        else:
            assert (await read_all(stream)).endswith(CHUNK + b"\r\n")
        await close(stream)
    assert sum("a bug in an encoder" in str(r.exc_info) for r in caplog.records) == 1


async def test_too_many_connections(autojump_clock: MockClock) -> None:
    async with laboratory(autojump_clock, limits=replace(LIMITS, connections=2)) as lab:
        kept = [await lab.request(get("/before")) for _ in range(2)]
        await lab.journal.until(lambda: lab.journal.started["/before"] == 2)
        refused = await lab.request(get("/ok"))
        assert (await read_all(refused)).startswith(b"HTTP/1.1 503 ")
        await close(refused)
        await close(kept.pop())
        await lab.journal.until_ended("/before")
        served = await lab.request(get("/ok"))
        await read_until(served, b"answer")
        await close(served)
        await reset(kept.pop())


@anyapp
async def test_shutdown_closes_idle_and_lets_responses_end(autojump_clock: MockClock, app: str) -> None:
    async with laboratory(autojump_clock, app) as lab:
        idle, _ = await reach(lab, "idle")
        streaming, path = await reach(lab, "mid-stream")
        await lab.context.terminated.set()
        assert await read_all(idle, within_s=0.1) in (b"", b"0\r\n\r\n")  # of the response before
        await trio.sleep(1)
        assert lab.journal.extensions[path]["terminated"].is_set()
        lab.journal.event(path).set()
        assert (await read_all(streaming, within_s=0.1)).endswith(b"rest\r\n0\r\n\r\n")
        await close(idle)
        await close(streaming)


@anyapp
async def test_shutdown_is_not_held_up_by_a_stalled_client(autojump_clock: MockClock, app: str) -> None:
    before = 0.0
    async with laboratory(autojump_clock, app, keep_clients=True) as lab:
        stream = await lab.request(get("/flood"), receive_buffer=4096)
        await lab.journal.until_started("/flood")
        await trio.sleep(0.5)
        before = trio.current_time()
    assert trio.current_time() - before < 0.5
    assert await is_reset(stream)
    await close(stream)


@ending
async def test_an_app_that_never_listens_is_stopped_by_what_it_sends(
    autojump_clock: MockClock, end: Ending, caplog: pytest.LogCaptureFixture
) -> None:
    async with laboratory(autojump_clock) as lab:
        stream = await lab.request(get("/blind"), receive_buffer=4096)
        await lab.journal.until_started("/blind")
        await trio.sleep(1)
        await end(stream)
        await lab.journal.until_ended("/blind", within_s=0.1)
    assert not caplog.records


@anyapp
async def test_chunks_are_what_an_http_parser_takes_them_for(autojump_clock: MockClock, app: str) -> None:
    async with laboratory(autojump_clock, app) as lab:
        stream = await lab.request(get("/stream"))
        received = await read_until(stream, CHUNK)
        lab.journal.event("/stream").set()
        received += await read_until(stream, b"0\r\n\r\n")
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target="/stream", headers=[("host", "test")]))
        client.send(h11.EndOfMessage())
        client.receive_data(received)
        body = b""
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            assert event is not h11.NEED_DATA
            body += event.data if isinstance(event, h11.Data) else b""
        assert body == CHUNK + b"rest"
        await close(stream)


@anyapp
async def test_chunks_of_one_byte_are_a_body_and_cost_their_sender_time(
    autojump_clock: MockClock, app: str
) -> None:
    async with laboratory(autojump_clock, app) as lab:
        stream = await lab.request(b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        await lab.journal.until_started("/body")
        began = trio.current_time()
        await stream.send_all(b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n")
        await read_until(stream, b"2000")
        # Parsing two thousand chunks takes some ms, more than may be taken without a pause.
        assert trio.current_time() - began > 0.001
        await close(stream)


@anyapp
@pytest.mark.parametrize("split", [False, True])
async def test_a_body_that_is_all_framing_is_refused(
    autojump_clock: MockClock, app: str, split: bool
) -> None:
    async with laboratory(autojump_clock, app) as lab:
        stream = await lab.request(b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        await lab.journal.until_started("/body")
        for _ in range(3):
            for part in (
                [b"1;" + b"e" * 8000, b"\r\nx\r\n"] if split else [b"1;" + b"e" * 8000 + b"\r\nx\r\n"]
            ):
                await stream.send_all(part)
                await trio.sleep(0.1)
        assert b"HTTP/1.1 400 " in await read_all(stream)
        await lab.journal.until_ended("/body")


async def test_a_long_chunk_pays_for_its_extensions(autojump_clock: MockClock) -> None:
    async with laboratory(autojump_clock) as lab:
        stream = await lab.request(b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(50):
            await stream.send_all(b"800;signature=" + b"e" * 1000 + b"\r\n" + b"x" * 0x800 + b"\r\n")
        await stream.send_all(b"0\r\n\r\n")
        await read_until(stream, b"102400")
        await close(stream)
