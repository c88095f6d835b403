"""Messages from end to end on the scripted backend, at the ASGI boundary."""

import json
from typing import Any

import pytest
import trio.testing
from tests.harness import Gate, serving
from tests.http.apis import MESSAGES, frames, text_of
from tests.http.watch import opening

from corral.engine.local.scripted import ScriptedBackend, replying

BILLING = "x-anthropic-billing-header: cc_version=2.1; cch={};"


def echo() -> ScriptedBackend:
    return ScriptedBackend(replying(lambda text: text.split("user\n")[-1].split("\n")[0].upper()))


async def test_a_stream_and_an_answer_say_the_same() -> None:
    async with serving(echo()) as client:
        answer = MESSAGES.send(client, "tell me ☂")
        told = await answer.json()
        assert told["content"] == [{"type": "text", "text": "TELL ME ☂"}]
        assert told["model"] == "scripted"
        stream = MESSAGES.send(client, "tell me ☂", stream=True)
        assert text_of(MESSAGES, await stream.body()) == "TELL ME ☂"
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert told["id"].startswith("msg_")


async def test_every_answer_has_the_id_of_its_request_where_anthropics_clients_look_for_it() -> None:
    async with serving(echo()) as client:
        for exchange in (
            MESSAGES.send(client, "hi"),
            MESSAGES.send(client, "hi", stream=True),
            MESSAGES.send(client, "hi", temperature=9),
            client.send("GET", "/v1/messages"),
            client.send("GET", "/v1/messages/batches"),
        ):
            body = await exchange.body()
            assert exchange.headers["request-id"].startswith("req_")
            if exchange.status != 200:
                assert json.loads(body)["request_id"] == exchange.headers["request-id"]
        models = client.send("GET", "/v1/models")
        await models.body()
        assert "request-id" not in models.headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": "key"}, 200),
        ({"x-api-key": "key", "anthropic-version": "2023-06-01", "anthropic-beta": "a,b"}, 200),
        ({"x-api-key": "key", "anthropic-version": "next year's"}, 200),
        ({"authorization": "Bearer key"}, 200),
        ({"authorization": "Bearer key", "x-api-key": "of somebody else"}, 200),
        ({"authorization": "Bearer of somebody else", "x-api-key": "key"}, 200),
        ({"x-api-key": "wrong"}, 401),
        ({}, 401),
    ],
)
async def test_a_key_comes_in_either_header_with_any_version(headers: dict[str, str], status: int) -> None:
    async with serving(echo(), api_keys=("key",)) as client:
        exchange = MESSAGES.send(client, "hi", headers=headers)
        told = await exchange.json()
        assert exchange.status == status
        if status == 401:
            assert told["error"]["type"] == "authentication_error"


async def test_a_prompt_is_counted_as_the_request_that_has_it() -> None:
    async with serving(echo()) as client:
        messages = [{"role": "user", "content": "hello there"}]
        body: dict[str, Any] = {"model": "m", "system": "be brief", "messages": messages}
        counted = client.send("POST", "/v1/messages/count_tokens?beta=true", body)
        tokens = await counted.json()
        assert counted.headers["request-id"]
        answer = await client.send("POST", "/v1/messages?beta=true", {**body, "max_tokens": 9}).json()
        usage = answer["usage"]
        assert tokens == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}
        wrong = client.send("POST", "/v1/messages/count_tokens", {"model": "m", "messages": []})
        assert (await wrong.json())["error"]["type"] == "invalid_request_error"
        assert wrong.status == 400


async def test_a_prompt_that_does_not_fit_is_counted_all_the_same() -> None:
    async with serving(ScriptedBackend(ctx_tokens=64)) as client:
        for words, fits in ((1, True), (50, False)):
            body = {"model": "m", "messages": [{"role": "user", "content": "word " * words}]}
            counted = client.send("POST", "/v1/messages/count_tokens", body)
            tokens = (await counted.json())["input_tokens"]
            assert (tokens < 64) == fits
            answer = client.send("POST", "/v1/messages", {**body, "max_tokens": 1})
            told = await answer.json()
            assert (answer.status == 200) == fits
        assert told["error"]["message"] == f"prompt is too long: {tokens} tokens > 64 maximum"


async def test_a_server_that_goes_counts_nothing_any_more() -> None:
    async with serving(echo()) as client:
        client.terminated.set()
        await MESSAGES.send(client, "hi").body()
        await trio.testing.wait_all_tasks_blocked()
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        counted = client.send("POST", "/v1/messages/count_tokens", body)
        assert (await counted.json())["error"]["type"] == "overloaded_error"
        assert counted.status == 503


async def test_claude_codes_changing_block_does_not_cost_the_prefix() -> None:
    async with serving(echo()) as client:

        async def ask(number: int) -> Any:
            system = [
                {"type": "text", "text": BILLING.format(number)},
                {"type": "text", "text": "You are helpful. " * 20},
            ]
            return (await MESSAGES.send(client, "hi", system=system).json())["usage"]

        first, second = await ask(1), await ask(2)
        assert first["cache_read_input_tokens"] == 0
        assert second["input_tokens"] == 1, "all but the token that must be computed"
        assert second["cache_read_input_tokens"] == first["input_tokens"] - 1


async def test_silence_is_filled_with_what_claude_code_counts_from_the_queue_on(
    mock_clock: trio.testing.MockClock,
) -> None:
    gate = Gate()
    backend = ScriptedBackend(on_step=gate)
    async with serving(backend, slots=1, stream_keepalive_s=3) as client, opening(gate):
        running = MESSAGES.send(client, "first", stream=True)
        await gate.wait_arrived()
        queued = MESSAGES.send(client, "second", stream=True)
        for stream in (running, queued):
            [(name, _)] = frames(await stream.chunk())
            assert name == "message_start"
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(3)
            for stream in (running, queued):
                (ping, _), (name, data) = frames(await stream.chunk())
                assert (ping, name) == ("ping", "message_delta")
                assert data["delta"]["stop_reason"] is None
        for _ in range(3):
            gate.let()
            await gate.wait_arrived()
        raw = b""
        while b"content_block_delta" not in raw:
            raw += await running.chunk()
        last = frames(raw)
        while last[0][0] != "ping":  # what the last step said may come first
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(3)
            last = frames(await running.chunk())
        assert last[1] == (
            "content_block_delta",
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": ""}},
        )
        for stream in (running, queued):
            stream.leave()


async def test_a_model_that_is_not_there_is_told_to_anthropics_clients_in_their_shape() -> None:
    async with serving(ScriptedBackend()) as client:
        missing = client.send("GET", "/v1/models/none", headers={"anthropic-version": "2023-06-01"})
        told = await missing.json()
        assert missing.status == 404
        assert (told["type"], told["error"]["type"]) == ("error", "not_found_error")
        assert told["request_id"] == missing.headers["request-id"]
