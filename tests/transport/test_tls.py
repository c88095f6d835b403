"""TLS: the same endings through an encrypted stream, and handshakes that do not end."""

import ssl
from typing import TypedDict

import h2.events
import pytest
import trio
from tests.transport.wires import (
    APPS,
    CHUNK,
    LIMITS,
    Ending,
    H2Client,
    close,
    laboratory,
    read_all,
    read_until,
    reset,
)
from trio.testing import MockClock


class Contexts(TypedDict):
    """Of both ends."""

    server_context: ssl.SSLContext
    client_context: ssl.SSLContext


@pytest.fixture
def contexts(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> Contexts:
    return {"server_context": server_context, "client_context": client_context}


anyapp = pytest.mark.parametrize("app", APPS)


async def say_goodbye(stream: trio.abc.Stream) -> None:
    """close_notify, then FIN."""
    await stream.aclose()


ENDINGS: dict[str, Ending] = {"close_notify": say_goodbye, "FIN": close, "RST": reset}
ending = pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)


def get(path: str, extra: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{extra}\r\n".encode()


@anyapp
@ending
@pytest.mark.parametrize("path", ["/before", "/stream", "/flood"])
async def test_a_client_that_leaves_is_gone_at_once(
    autojump_clock: MockClock, app: str, end: Ending, path: str, contexts: Contexts
) -> None:
    async with laboratory(autojump_clock, app, **contexts) as lab:
        stream = await lab.connect_tls()
        await stream.send_all(get(path))
        await lab.journal.until_started(path)
        await trio.sleep(0.1)
        if path == "/stream":
            await read_until(stream, CHUNK)
        await end(stream)
        # A full socket keeps a close_notify from leaving the client for as long as aclose() lets it wait.
        await lab.journal.until_ended(path, within_s=LIMITS.send_timeout_s + 1 if path == "/flood" else 0.1)
        await lab.until_empty()


@anyapp
@ending
async def test_an_http2_client_that_leaves_is_gone_at_once(
    autojump_clock: MockClock, app: str, end: Ending, contexts: Contexts
) -> None:
    async with laboratory(autojump_clock, app, **contexts) as lab:
        client = H2Client(await lab.connect_tls("h2"))
        stream_id = await client.get("/stream")
        await client.until(h2.events.DataReceived, stream_id)
        await end(client.stream)
        await lab.journal.until_ended("/stream", within_s=0.1)
        await lab.until_empty(within_s=0.1)


@anyapp
async def test_responses_come_whole_and_connections_close(
    autojump_clock: MockClock, app: str, contexts: Contexts
) -> None:
    async with laboratory(autojump_clock, app, **contexts) as lab:
        stream = await lab.connect_tls()
        await stream.send_all(get("/ok"))
        await read_until(stream, b"answer")
        await stream.send_all(get("/ok", "Connection: close\r\n"))
        assert b"answer" in await read_all(stream)
        await lab.until_empty()


@anyapp
async def test_an_early_answer_reaches_a_client_that_still_sends(
    autojump_clock: MockClock, app: str, contexts: Contexts
) -> None:
    async with laboratory(autojump_clock, app, **contexts) as lab:
        stream = await lab.connect_tls()
        await stream.send_all(b"POST /ok HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n")
        await stream.send_all(b"x" * 100_000)
        assert b"answer" in await read_until(stream, b"answer")
        await lab.until_empty(within_s=3)


@anyapp
async def test_a_stalled_client_is_reset(autojump_clock: MockClock, app: str, contexts: Contexts) -> None:
    async with laboratory(autojump_clock, app, **contexts) as lab:
        stream = await lab.connect_tls()
        await stream.send_all(get("/flood"))
        await lab.journal.until_started("/flood")
        await lab.journal.until_ended("/flood", within_s=2 * LIMITS.send_timeout_s)
        await lab.until_empty()


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"], ids=["silence", "half a hello"])
async def test_a_handshake_must_end(
    autojump_clock: MockClock, said: bytes, server_context: ssl.SSLContext
) -> None:
    async with laboratory(autojump_clock, server_context=server_context) as lab:
        stream = await lab.request(said)
        began = trio.current_time()
        await read_all(stream)
        assert trio.current_time() - began == pytest.approx(LIMITS.tls_handshake_timeout_s, abs=0.1)
        await lab.until_empty()


async def test_cleartext_on_a_tls_port_is_turned_away(autojump_clock: MockClock, contexts: Contexts) -> None:
    async with laboratory(autojump_clock, **contexts) as lab:
        stream = await lab.request(get("/ok"))
        assert b"HTTP" not in await read_all(stream)
        other = await lab.connect_tls()
        await other.send_all(get("/ok"))
        assert b"answer" in await read_until(other, b"answer")
