"""Who asks where its request is, is told: its place in line, how long that lasts, how far its prompt is."""

import json
from typing import Any

from tests.harness import Client, Exchange, Gate, serving
from tests.http.watch import opening

from corral.engine.local.scripted import ScriptedBackend, replying


def chunks(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(frame.removeprefix("data: ")) for frame in body.decode().split("\n\n")[:-2]]


def backend(gate: Gate, *, batch_tokens: int = 64) -> ScriptedBackend:
    return ScriptedBackend(replying(lambda _: "ok"), on_step=gate, batch_tokens=batch_tokens)


async def queued(client: Client, letter: str = "x", **fields: Any) -> Exchange:
    """A request behind one that runs."""
    stream = client.chat(letter * 200, stream=True, max_tokens=5, **fields)
    await stream.chunk()
    return stream


async def test_who_asks_is_told_its_place_its_wait_and_its_prompts_progress() -> None:
    gate = Gate()
    async with serving(backend(gate), slots=1) as client, opening(gate):
        first = client.chat("first", stream=True, max_tokens=90)
        await first.chunk()
        await gate.wait_arrived()
        second = await queued(client, return_progress=True)
        third = await queued(client, "y", return_progress=True)
        gate.open()
        for place, stream in enumerate((second, third)):
            told = chunks(await stream.body())
            places = [chunk["queue_progress"] for chunk in told if "queue_progress" in chunk]
            assert places[0]["position"] == place
            assert places[0]["eta_s"] > 0
            assert [chunk["position"] for chunk in places] == sorted(
                (chunk["position"] for chunk in places), reverse=True
            )
            steps = [chunk["prompt_progress"] for chunk in told if "prompt_progress" in chunk]
            assert len(steps) >= 3, "a prompt of 200 characters takes several steps of 64 tokens"
            assert [step["processed"] for step in steps] == sorted({step["processed"] for step in steps})
            assert {step["total"] for step in steps} == {steps[-1]["processed"]}
            assert all(0 <= step["cache"] <= step["processed"] for step in steps)
            assert [step["time_ms"] for step in steps] == sorted(step["time_ms"] for step in steps)
            assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in told) == "ok"
        await first.body()


async def test_nobody_else_is_told() -> None:
    gate = Gate()
    async with serving(backend(gate), slots=1) as client, opening(gate):
        first = client.chat("first", stream=True)
        await first.chunk()
        await gate.wait_arrived()
        streams = [await queued(client), await queued(client, return_progress=False)]
        gate.open()
        for stream in (first, *streams):
            assert b"progress" not in await stream.body()


async def test_an_answer_in_one_piece_has_no_room_for_it() -> None:
    gate = Gate()
    gate.open()
    async with serving(backend(gate)) as client:
        answer = await client.chat("hello", return_progress=True).json()
        assert answer["choices"][0]["message"]["content"] == "ok"
        assert not [key for key in answer if "progress" in key]


async def test_the_position_is_told_once_for_all_choices() -> None:
    gate = Gate()
    async with serving(backend(gate), slots=2) as client, opening(gate):
        first = client.chat("first", stream=True)
        await first.chunk()
        await gate.wait_arrived()
        second = client.chat("x" * 200, stream=True, n=2, max_tokens=5, return_progress=True)
        await second.chunk()
        gate.open()
        told = chunks(await second.body())
        assert {chunk["choices"][0]["index"] for chunk in told if "queue_progress" in chunk} == {0}
        await first.body()


async def test_among_the_requests_of_one_client_the_lowest_priority_number_goes_first() -> None:
    gate = Gate()
    async with serving(backend(gate), slots=1) as client, opening(gate):
        first = client.chat("first", stream=True)
        await first.chunk()
        await gate.wait_arrived()
        late = client.chat("late", stream=True, priority=5)
        await late.chunk()
        usual = client.chat("usual", stream=True)
        await usual.chunk()
        soon = client.chat("soon", stream=True, priority=-5)
        await soon.chunk()
        waiting = await client.send("GET", "/status/json").json()
        order = [place["id"] for place in waiting["queue"]]
        began = {request["id"]: request["started_at"] for request in waiting["requests"]}
        assert [sorted(began, key=began.__getitem__).index(id) for id in order] == [3, 2, 1]
        gate.open()
        for stream in (first, late, usual, soon):
            await stream.body()
