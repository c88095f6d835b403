"""Every end of a request in every API, streamed and in one piece: each in that API's own words, none of them
like another's, and a stream that breaks is never like one that is whole."""

from collections.abc import Awaitable, Callable
from typing import Final

import pytest
import trio
import trio.testing
from tests.harness import Client, Exchange, Gate, serving
from tests.http.apis import APIS, CHAT, MESSAGES, RESPONSES, Api, end_of, end_of_whole
from tests.http.watch import opening

from corral.engine.local.scripted import ScriptedBackend, replying

Drive = Callable[[Client, Gate, trio.testing.MockClock, Api, bool], Awaitable[Exchange]]


async def running(client: Client, gate: Gate, exchange: Exchange) -> str:
    """Until a request is in the engine; its id."""
    await gate.wait_arrived()
    await trio.testing.wait_all_tasks_blocked()
    [id] = [row["id"] for row in (await client.send("GET", "/status/json").json())["requests"]]
    assert isinstance(id, str)
    return id


async def finish(
    client: Client, gate: Gate, clock: trio.testing.MockClock, api: Api, stream: bool
) -> Exchange:
    gate.open()
    return api.send(client, "hello", stream=stream)


async def stop_sequence(
    client: Client, gate: Gate, clock: trio.testing.MockClock, api: Api, stream: bool
) -> Exchange:
    gate.open()
    return api.send(client, "hello", stream=stream, stop="LO")


async def length(
    client: Client, gate: Gate, clock: trio.testing.MockClock, api: Api, stream: bool
) -> Exchange:
    gate.open()
    return api.send(client, "hello", stream=stream, max_tokens=2)


async def context_full(
    client: Client, gate: Gate, clock: trio.testing.MockClock, api: Api, stream: bool
) -> Exchange:
    gate.open()
    if api is MESSAGES:  # which must name a limit
        return api.send(client, "RAMBLE", stream=stream, max_tokens=32_000)
    return api.send(client, "RAMBLE", stream=stream)


async def cancelled(
    client: Client, gate: Gate, clock: trio.testing.MockClock, api: Api, stream: bool
) -> Exchange:
    exchange = api.send(client, "hello", stream=stream)
    id = await running(client, gate, exchange)
    told = client.send("POST", f"{api.path}/{id}/cancel")
    assert (await told.json())["status"] == "cancelled"
    gate.open()
    return exchange


async def operator(
    client: Client, gate: Gate, clock: trio.testing.MockClock, api: Api, stream: bool
) -> Exchange:
    exchange = api.send(client, "hello", stream=stream)
    id = await running(client, gate, exchange)
    await client.send("DELETE", f"/v1/requests/{id}").body()
    gate.open()
    return exchange


async def deadline(
    client: Client, gate: Gate, clock: trio.testing.MockClock, api: Api, stream: bool
) -> Exchange:
    exchange = api.send(client, "hello", stream=stream)
    await running(client, gate, exchange)
    clock.jump(60.1)
    await trio.testing.wait_all_tasks_blocked()
    gate.open()
    return exchange


async def shutdown(
    client: Client, gate: Gate, clock: trio.testing.MockClock, api: Api, stream: bool
) -> Exchange:
    exchange = api.send(client, "hello", stream=stream)
    await running(client, gate, exchange)
    client.terminated.set()
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(11)
    await trio.testing.wait_all_tasks_blocked()
    gate.open()
    return exchange


async def engine_failed(
    client: Client, gate: Gate, clock: trio.testing.MockClock, api: Api, stream: bool
) -> Exchange:
    gate.open()
    return api.send(client, "BREAK", stream=stream)


async def refused(
    client: Client, gate: Gate, clock: trio.testing.MockClock, api: Api, stream: bool
) -> Exchange:
    gate.open()
    return api.send(client, "hello", stream=stream, temperature=9)


async def too_long(
    client: Client, gate: Gate, clock: trio.testing.MockClock, api: Api, stream: bool
) -> Exchange:
    gate.open()
    return api.send(client, "word " * 1000, stream=stream)


ENDS: Final[dict[tuple[Drive, Api], tuple[str, int]]] = {
    (finish, CHAT): ("stop None", 200),
    (finish, MESSAGES): ("end_turn None", 200),
    (finish, RESPONSES): ("completed None", 200),
    (stop_sequence, CHAT): ("stop LO", 200),
    (stop_sequence, MESSAGES): ("stop_sequence LO", 200),
    (length, CHAT): ("length None", 200),
    (length, MESSAGES): ("max_tokens None", 200),
    (length, RESPONSES): ("incomplete max_output_tokens", 200),
    (context_full, CHAT): ("length None", 200),
    (context_full, RESPONSES): ("incomplete max_output_tokens", 200),
    (operator, CHAT): ("error stopped_by_operator", 503),
    (operator, MESSAGES): ("error api_error", 503),
    (operator, RESPONSES): ("error stopped_by_operator", 503),
    (deadline, CHAT): ("error deadline_exceeded", 504),
    (deadline, MESSAGES): ("error timeout_error", 504),
    (deadline, RESPONSES): ("error deadline_exceeded", 504),
    (shutdown, CHAT): ("error server_shutdown", 503),
    (shutdown, MESSAGES): ("error overloaded_error", 503),
    (shutdown, RESPONSES): ("error server_shutdown", 503),
    (engine_failed, CHAT): ("error engine_failed", 503),
    (engine_failed, MESSAGES): ("error api_error", 503),
    (engine_failed, RESPONSES): ("error engine_failed", 503),
}
"""How a stream says that it ended so, and a whole answer, with this status. There is no stop sequence in the
Responses API."""

REFUSED: Final[dict[tuple[Drive, Api], tuple[str, int]]] = {
    (refused, CHAT): ("error None", 400),
    (refused, MESSAGES): ("error invalid_request_error", 400),
    (refused, RESPONSES): ("error None", 400),
    (too_long, CHAT): ("error context_length_exceeded", 400),
    (too_long, MESSAGES): ("error invalid_request_error", 400),
    (too_long, RESPONSES): ("error context_length_exceeded", 400),
}
"""Before anything is streamed."""


def reply(conversation: str) -> str:
    if "BREAK" in conversation:
        raise ZeroDivisionError
    if "RAMBLE" in conversation:
        return "and so on " * 1000
    return conversation.split("user\n")[-1].split("\n")[0].upper()


def named(case: object) -> str:
    return str(getattr(case, "__name__", None) or getattr(case, "name", case))


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(("drive", "api"), ENDS | REFUSED, ids=named)
async def test_an_end_is_told_in_the_words_of_its_api(
    drive: Drive, api: Api, stream: bool, mock_clock: trio.testing.MockClock
) -> None:
    expected, status = (ENDS | REFUSED)[drive, api]
    gate = Gate()
    backend = ScriptedBackend(replying(reply), on_step=gate, ctx_tokens=512)
    async with serving(backend, request_deadline_s=60, drain_s=10) as client, opening(gate):
        exchange = await drive(client, gate, mock_clock, api, stream)
        if stream and (drive, api) in ENDS:
            raw = await exchange.body()
            assert (end_of(api, raw), exchange.status) == (expected, 200)
        else:
            answer = await exchange.json()
            assert (end_of_whole(api, answer), exchange.status) == (expected, status)
        await client.service.wait_settled()


async def test_a_client_cancels_its_own_stream(mock_clock: trio.testing.MockClock) -> None:
    gate = Gate()
    async with serving(ScriptedBackend(on_step=gate)) as client, opening(gate):
        exchange = await cancelled(client, gate, mock_clock, RESPONSES, True)
        assert end_of(RESPONSES, await exchange.body()) == "error cancelled"


@pytest.mark.parametrize("api", APIS, ids=named)
async def test_a_reader_that_was_too_slow_has_a_stream_without_an_end(api: Api) -> None:
    async with serving(ScriptedBackend(), reader_bytes=65_536) as client:
        exchange = api.send(client, "hello", stream=True, max_tokens=2000, buffered_chunks=4)
        await exchange.is_over.wait()
        assert exchange.aborted
        assert end_of(api, await exchange.body()) == "nothing"


@pytest.mark.parametrize("api", APIS, ids=named)
async def test_no_two_ends_look_alike(api: Api) -> None:
    """In a stream's own words or, of errors that this API has one word for, with the message beside it."""
    told = [end for (drive, its), (end, _) in ENDS.items() if its is api and drive is not context_full]
    if api is MESSAGES:
        told.remove("error api_error")
    assert len(told) == len(set(told))
