"""Chat completions from end to end on the scripted backend, at the ASGI boundary."""

import json
from typing import Any

import pytest
import trio
import trio.testing
from tests.harness import Exchange, Gate, serving

from corral.engine.local.scripted import ScriptedBackend, replying
from corral.serving.service import DELIVERY_BYTES


def frames(body: bytes) -> list[Any]:
    """The data of every SSE frame; the body must be whole frames and nothing else."""
    assert body.endswith(b"\n\n")
    lines = body.decode().split("\n\n")[:-1]
    assert all(line.startswith("data: ") for line in lines)
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


def text(chunks: list[Any], choice: int = 0) -> str:
    return "".join(
        entry["delta"].get("content", "")
        for chunk in chunks[:-1]
        for entry in chunk["choices"]
        if entry["index"] == choice
    )


def echo() -> ScriptedBackend:
    """Answers with the last message, in capitals."""
    return ScriptedBackend(
        replying(lambda conversation: conversation.split("user\n")[-1].split("\n")[0].upper())
    )


async def test_a_stream_and_an_answer_say_the_same() -> None:
    async with serving(echo()) as client:
        answer = await client.chat("tell me ☂").json()
        assert answer["choices"][0]["message"]["content"] == "TELL ME ☂"
        assert answer["choices"][0]["finish_reason"] == "stop"
        stream = client.chat("tell me ☂", stream=True, stream_options={"include_usage": True})
        chunks = frames(await stream.body())
        assert text(chunks) == "TELL ME ☂"
        assert chunks[-1] == "[DONE]"
        usage = chunks[-2]["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1, "asked before"
        assert usage["total_tokens"] == answer["usage"]["total_tokens"]
        assert len({chunk["id"] for chunk in chunks[:-1]}) == 1


async def test_the_first_byte_comes_on_acceptance_before_the_engine_has_done_anything() -> None:
    gate = Gate()
    async with serving(ScriptedBackend(on_step=gate)) as client:
        stream = client.chat(stream=True)
        [first] = frames(await stream.chunk())
        assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert stream.status == 200
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["x-accel-buffering"] == "no"
        stream.leave()
        gate.open()


@pytest.mark.parametrize(("interval_ms", "writes"), [(0, 7), (3_600_000, 3)])
async def test_text_of_quick_steps_is_written_together(interval_ms: float, writes: int) -> None:
    gate = Gate()
    async with serving(ScriptedBackend(on_step=gate), stream_interval_ms=interval_ms) as client:
        stream = client.chat(max_tokens=6, stream=True)
        for _ in range(6):
            await gate.wait_arrived()
            await trio.testing.wait_all_tasks_blocked(0.01)
            gate.let()
        chunks = [chunk async for chunk in stream._chunks]
        assert len(chunks) == writes, "what accepts, every token, or the first and all others"
        assert len(text(frames(b"".join(chunks)))) == 6


async def test_choices_are_separate_streams_of_one_response() -> None:
    async with serving(echo(), slots=3) as client:
        chunks = frames(await client.chat("abc", n=3, stream=True).body())
        assert [text(chunks, choice) for choice in range(3)] == ["ABC"] * 3
        answer = await client.chat("abc", n=3).json()
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]


async def test_a_last_message_of_the_assistant_is_continued() -> None:
    backend = ScriptedBackend(replying(lambda _: "Once upon a time"))
    async with serving(backend) as client:
        messages = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "Once upon"}]
        as_vllm: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False}
        for fields in ({}, as_vllm):
            answer = await client.chat(messages=messages, **fields).json()
            assert answer["choices"][0]["message"]["content"] == " a time"
        refused = client.chat(messages=messages[:1], **as_vllm)
        assert (await refused.json())["error"]["param"] == "add_generation_prompt"


async def test_max_tokens_and_stop_strings() -> None:
    async with serving(echo()) as client:
        answer = await client.chat("one two three", max_tokens=5).json()
        assert answer["choices"][0]["message"]["content"] == "ONE T"
        assert answer["choices"][0]["finish_reason"] == "length"
        answer = await client.chat("one two three", stop=["THREE", "zzz"]).json()
        assert answer["choices"][0]["message"]["content"] == "ONE TWO "
        assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 9}, "n"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"max_tokens": 5000}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, "messages"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
async def test_what_cannot_be_done_is_refused_before_it_is_queued(fields: dict[str, Any], param: str) -> None:
    async with serving(ScriptedBackend()) as client:
        refused = client.chat(**fields, stream=True)
        error = (await refused.json())["error"]
        assert refused.status == 400
        assert error["param"] == param
        assert error["type"] == "invalid_request_error"


async def test_a_full_queue_says_when_to_come_back() -> None:
    gate = Gate()
    async with serving(ScriptedBackend(on_step=gate), slots=1, queue_requests=1) as client:
        accepted = [client.chat(stream=True), client.chat(stream=True)]
        for stream in accepted:
            await stream.chunk()
        refused = client.chat(stream=True)
        assert (await refused.json())["error"]["code"] == "rate_limit_exceeded"
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) >= 1
        for stream in accepted:
            stream.leave()
        gate.open()


async def test_a_failure_in_mid_stream_is_told_and_the_stream_is_not_called_done() -> None:
    def script(tokens: Any) -> int:
        if len(tokens) > 50:
            raise ZeroDivisionError
        return 97

    async with serving(ScriptedBackend(script)) as client:
        chunks = frames(await client.chat(stream=True).body())
        assert "error" in chunks[-1]
        assert chunks[-1]["error"]["type"] == "server_error"
        answer = client.chat()
        assert "error" in await answer.json()
        assert answer.status == 503


async def left_engine(stream: Exchange) -> None:
    stream.leave()
    await stream.is_over.wait()


@pytest.mark.parametrize("streams", [True, False])
async def test_a_client_that_leaves_the_queue_never_reaches_the_engine(streams: bool) -> None:
    gate = Gate()
    backend = ScriptedBackend(on_step=gate)
    async with serving(backend, slots=1) as client:
        running = client.chat("first", stream=True)
        await gate.wait_arrived()
        queued = client.chat("second", stream=streams)
        await trio.testing.wait_all_tasks_blocked()
        while client.service.waiting == 0:
            await trio.lowlevel.checkpoint()
        await left_engine(queued)
        assert client.service.waiting == 0
        await left_engine(running)
        gate.open()
    assert backend.steps == [], "the step at the gate was cut short, and there was none for the other"


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("steps", [0, 1, 4], ids=["first step", "prefill", "decode"])
async def test_a_client_that_leaves_is_out_within_the_step_that_runs(steps: int, streams: bool) -> None:
    gate = Gate()
    backend = ScriptedBackend(on_step=gate)
    async with serving(backend) as client:
        leaving = client.chat("x" * 200, stream=streams)
        gate.let(steps)
        for _ in range(steps + 1):
            await gate.wait_arrived()
        await left_engine(leaving)
        gate.let(1)
        await client.service.wait_idle()
        assert len(backend.steps) == steps, "the step at the gate was cut short"
        gate.open()
        assert (await client.chat("next", max_tokens=3).json())["usage"]["completion_tokens"] == 3


async def test_a_client_that_leaves_does_not_disturb_the_others() -> None:
    async with serving(ScriptedBackend()) as client:
        alone = (await client.chat("stay", max_tokens=50).json())["choices"]
        staying = client.chat("stay", max_tokens=50)
        leaving = client.chat("go", stream=True)
        await leaving.chunk()
        await left_engine(leaving)
        assert (await staying.json())["choices"] == alone


async def test_a_reader_that_stops_is_evicted_and_its_slot_is_free_at_once() -> None:
    async with serving(ScriptedBackend(), slots=1, reader_bytes=65_536) as client:
        stalled = client.chat(stream=True, buffered_chunks=2)  # and never reads
        await stalled.is_over.wait()
        assert stalled.aborted
        assert (await client.chat("next", max_tokens=3).json())["usage"]["completion_tokens"] == 3


async def test_silence_is_filled_with_keepalives_while_queued_and_while_a_step_stalls(
    mock_clock: trio.testing.MockClock,
) -> None:
    gate = Gate()
    async with serving(ScriptedBackend(on_step=gate), slots=1, stream_keepalive_s=5) as client:
        streams = [client.chat("running", stream=True), client.chat("queued", stream=True)]
        for stream in streams:
            await stream.chunk()
        await gate.wait_arrived()
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()  # whoever writes has seen that it was taken
            mock_clock.jump(5)
            for stream in streams:
                [frame] = frames(await stream.chunk())
                assert frame["choices"][0]["delta"] == {}
        for stream in streams:
            await left_engine(stream)
        gate.open()


async def test_keepalives_that_fall_due_while_a_mailbox_is_exactly_full_evict_nobody(
    mock_clock: trio.testing.MockClock,
) -> None:
    gate = Gate()
    backend = ScriptedBackend(on_step=gate)
    async with serving(backend, reader_bytes=16 * DELIVERY_BYTES, stream_keepalive_s=5) as client:
        stream = client.chat(stream=True, buffered_chunks=0)  # its first write waits for the client
        await gate.wait_arrived()
        for _ in range(16):
            gate.let()
            await gate.wait_arrived()
        for _ in range(5):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(6)
        await trio.testing.wait_all_tasks_blocked()
        assert not stream.aborted
        gate.let()
        await stream.is_over.wait()
        assert stream.aborted, "one delivery more is one too many"
        gate.open()


async def test_shutdown_refuses_new_requests_lets_running_ones_finish_and_then_ends_them(
    mock_clock: trio.testing.MockClock,
) -> None:
    gate = Gate()
    async with serving(ScriptedBackend(on_step=gate), drain_s=10) as client:
        stream, answer = client.chat(stream=True), client.chat()
        await stream.chunk()
        await gate.wait_arrived()
        client.terminated.set()
        await trio.testing.wait_all_tasks_blocked()
        health, refused = client.send("GET", "/health"), client.chat()
        assert (await health.json(), health.status) == ({"status": "draining"}, 503)
        assert (await refused.json())["error"]["code"] == "server_draining"
        assert refused.status == 503
        mock_clock.jump(9.9)
        await trio.testing.wait_all_tasks_blocked()
        assert not stream.is_over.is_set()
        mock_clock.jump(0.2)
        last = frames(await stream.body())[-1]
        assert last["error"]["code"] == "server_shutdown"
        assert (await answer.json())["error"]["code"] == "server_shutdown"
        gate.open()
