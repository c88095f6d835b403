"""Every way in which a request can end, and that the ledger is settled once for each."""

import json
import logging
from collections.abc import Awaitable, Callable
from typing import get_args

import pytest
import trio
import trio.testing
from tests.harness import Client, Gate, serving
from tests.http.watch import opening, settled, watching

from corral.books.outcome import Outcome
from corral.engine.local.scripted import ScriptedBackend, replying


async def by_stop(client: Client, gate: Gate, clock: trio.testing.MockClock) -> None:
    gate.open()
    await client.chat("hello").json()


async def by_stop_sequence(client: Client, gate: Gate, clock: trio.testing.MockClock) -> None:
    gate.open()
    await client.chat("hello", stop=["L"], stream=True).body()


async def by_length(client: Client, gate: Gate, clock: trio.testing.MockClock) -> None:
    gate.open()
    await client.chat("hello", max_tokens=2, stream=True).body()


async def by_disconnected(client: Client, gate: Gate, clock: trio.testing.MockClock) -> None:
    stream = client.chat("hello", stream=True)
    await stream.chunk()
    await gate.wait_arrived()
    stream.leave()
    gate.open()


async def by_cancelled(client: Client, gate: Gate, clock: trio.testing.MockClock) -> None:
    stream = client.send("POST", "/v1/responses", {"input": "hello", "stream": True})
    created = json.loads((await stream.chunk()).split(b"data: ")[1].partition(b"\n")[0])
    await gate.wait_arrived()
    cancelled = client.send("POST", f"/v1/responses/{created['response']['id']}/cancel")
    assert (await cancelled.json())["status"] == "cancelled"
    assert b'"status":"cancelled"' in await stream.body()
    gate.open()


async def by_evicted(client: Client, gate: Gate, clock: trio.testing.MockClock) -> None:
    stalled = client.chat("RAMBLE", stream=True, buffered_chunks=4)  # what stands for the kernel's buffer
    gate.open()
    await stalled.is_over.wait()
    assert stalled.aborted


async def by_stopped_by_operator(client: Client, gate: Gate, clock: trio.testing.MockClock) -> None:
    stream = client.chat("hello", stream=True)
    first = json.loads((await stream.chunk()).removeprefix(b"data: "))
    await gate.wait_arrived()
    stop = client.send("DELETE", f"/v1/requests/{first['id']}")
    assert (await stop.json(), stop.status) == ({"id": first["id"], "stopped": True}, 200)
    assert b'"code":"stopped_by_operator"' in await stream.body()
    gate.open()


async def by_deadline(client: Client, gate: Gate, clock: trio.testing.MockClock) -> None:
    answer = client.chat("hello")
    await gate.wait_arrived()
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(60.1)
    assert (await answer.json())["error"]["code"] == "deadline_exceeded"
    assert answer.status == 504
    gate.open()


async def by_shutdown(client: Client, gate: Gate, clock: trio.testing.MockClock) -> None:
    stream = client.chat("hello", stream=True)
    await stream.chunk()
    await gate.wait_arrived()
    client.terminated.set()
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(11)
    assert b'"code":"server_shutdown"' in await stream.body()
    gate.open()


async def by_refused(client: Client, gate: Gate, clock: trio.testing.MockClock) -> None:
    answer = client.chat("hello", max_tokens=99_999)
    error = (await answer.json())["error"]
    assert error["code"] == "context_length_exceeded"
    assert "maximum context length is" in error["message"]  # what Cline and Continue look for
    assert answer.status == 400
    gate.open()


async def by_failed(client: Client, gate: Gate, clock: trio.testing.MockClock) -> None:
    gate.open()
    assert b'"code":"engine_failed"' in await client.chat("BREAK", stream=True).body()


WAYS: dict[str, Callable[[Client, Gate, trio.testing.MockClock], Awaitable[None]]] = {
    "stop": by_stop,
    "stop_sequence": by_stop_sequence,
    "length": by_length,
    "disconnected": by_disconnected,
    "cancelled": by_cancelled,
    "evicted": by_evicted,
    "stopped_by_operator": by_stopped_by_operator,
    "deadline": by_deadline,
    "shutdown": by_shutdown,
    "refused": by_refused,
    "failed": by_failed,
}


def test_every_outcome_has_a_test_but_that_which_nothing_can_produce_yet() -> None:
    assert set(get_args(Outcome)) - set(WAYS) == {"tool_calls"}


@pytest.mark.parametrize("outcome", WAYS)
async def test_every_way_out_settles_the_ledger_once(
    outcome: str, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def reply(conversation: str) -> str:
        if "BREAK" in conversation:
            raise ZeroDivisionError
        if "RAMBLE" in conversation:
            # No repetitions: what drafting foresees comes in few, large chunks.
            return "".join(chr(97 + (number * 2_654_435_761 >> 9) % 26) for number in range(3500))
        return conversation.split("user\n")[-1].split("\n")[0].upper()

    gate = Gate()
    backend = ScriptedBackend(replying(reply), on_step=gate)
    with caplog.at_level(logging.INFO, "corral.requests"):
        async with serving(backend, request_deadline_s=60, reader_bytes=65_536) as client, opening(gate):
            async with watching(client) as watch:
                records = settled(client)
                await WAYS[outcome](client, gate, mock_clock)
                await client.service.wait_settled()
                await trio.testing.wait_all_tasks_blocked()
                mock_clock.jump(1)
                await watch.until(lambda watch: watch.state["totals"]["requests"])
                assert [event for event, _ in watch.events].count("finished") == 1
                assert [row["outcome"] for row in watch.state["history"]] == [outcome]
                assert watch.state["requests"] == []
                assert watch.state["totals"]["by_outcome"] == {outcome: 1}
            assert [record.outcome for record in records] == [outcome]
            [record] = records
            assert record.life.total_s == pytest.approx(sum(record.life.spent_s().values()), rel=1e-9)
            row = watch.state["history"][0]
            names = ("preparing", "queue", "prefill", "decode", "blocked_write")
            parts = [row[f"{name}_ms"] for name in names]
            assert sum(parts) == pytest.approx(row["total_ms"], rel=0.01, abs=0.05)
    lines = [entry.getMessage() for entry in caplog.records if entry.name == "corral.requests"]
    assert len(lines) == 1
    assert f" outcome={outcome} " in lines[0]
    assert "hello" not in lines[0].lower()


async def test_a_client_that_was_dropped_because_it_took_nothing_was_evicted() -> None:
    gate = Gate()
    async with serving(ScriptedBackend(on_step=gate)) as client, opening(gate):
        records = settled(client)
        stream = client.chat("hello", stream=True)
        await stream.chunk()
        await gate.wait_arrived()
        stream.stalled = True
        stream.leave()
        gate.open()
        await client.service.wait_settled()
        assert [record.outcome for record in records] == ["evicted"]


async def test_a_client_that_leaves_the_queue_is_settled_too() -> None:
    gate = Gate()
    async with serving(ScriptedBackend(on_step=gate), slots=1) as client, opening(gate):
        records = settled(client)
        running = client.chat("first", stream=True)
        await gate.wait_arrived()
        queued = client.chat("second", stream=True)
        await queued.chunk()
        queued.leave()
        await queued.is_over.wait()
        assert [(r.outcome, r.life.spent_s()["prefill"]) for r in records] == [("disconnected", 0)]
        running.leave()
