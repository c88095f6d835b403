"""Calls, thoughts and structure over Messages and Responses, with what a script says for the model: what the
model writes is read by the engine, and told in the words of the API."""

import json
from typing import Any

import pytest
from tests.harness import Client, serving
from tests.http.apis import MESSAGES, RESPONSES, frames

from corral.engine.local.scripted import ScriptedBackend, replying

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
PATCH = '<tool_call>\n{"name": "patch", "arguments": {"input": "a\\nb \\u00fc"}}\n</tool_call>'
ANTHROPICS = [{"name": "weather", "description": "The weather of a city.", "input_schema": PARAMETERS}]
OPENAIS = [
    {
        "type": "function",
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": PARAMETERS,
    },
    {"type": "custom", "name": "patch", "description": "Changes a file."},
]


def saying(text: str) -> ScriptedBackend:
    return ScriptedBackend(replying(lambda _: text), ctx_tokens=8192)


async def content_of(client: Client, text: str = "hi", **fields: Any) -> tuple[list[Any], str]:
    told = await MESSAGES.send(client, text, tools=ANTHROPICS, max_tokens=500, **fields).json()
    return told["content"], told["stop_reason"]


async def test_messages_tell_a_call_as_a_block_of_its_own() -> None:
    async with serving(saying(f"One moment.\n{CALL}")) as client:
        [text, call], reason = await content_of(client)
        assert (text["type"], text["text"].strip()) == ("text", "One moment.")
        assert (call["type"], call["name"], call["input"]) == ("tool_use", "weather", {"city": "Oslo"})
        assert (call["id"][:6], reason) == ("toolu_", "tool_use")
        told = frames(await MESSAGES.send(client, "hi", stream=True, tools=ANTHROPICS, max_tokens=500).body())
        starts = [data["content_block"]["type"] for name, data in told if name == "content_block_start"]
        assert starts == ["text", "tool_use"]
        pieces = [
            data["delta"].get("partial_json", "") for name, data in told if name == "content_block_delta"
        ]
        assert json.loads("".join(pieces)) == {"city": "Oslo"}
        assert [data["index"] for name, data in told if name == "content_block_stop"] == [0, 1]


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
async def test_messages_make_a_call_come_that_must_come(choice: Any) -> None:
    async with serving(saying("No.")) as client:
        content, reason = await content_of(client, tool_choice=choice)
        assert content[-1]["name"] == "weather"
        assert isinstance(content[-1]["input"]["city"], str)
        assert reason in ("tool_use", "max_tokens")


async def test_messages_end_with_the_first_call_where_one_is_enough() -> None:
    async with serving(saying(f"{CALL}\n{CALL}")) as client:
        both, _ = await content_of(client)
        one, reason = await content_of(
            client, tool_choice={"type": "auto", "disable_parallel_tool_use": True}
        )
        assert [sum(block["type"] == "tool_use" for block in content) for content in (both, one)] == [2, 1]
        assert reason == "tool_use"


async def test_the_tools_count_as_part_of_the_prompt() -> None:
    async with serving(saying("ok")) as client:
        body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        counted = client.send("POST", "/v1/messages/count_tokens", {**body, "tools": ANTHROPICS})
        alone = client.send("POST", "/v1/messages/count_tokens", body)
        tokens = (await counted.json())["input_tokens"]
        assert tokens > (await alone.json())["input_tokens"] + len("The weather of a city.")
        usage = (
            await client.send("POST", "/v1/messages", {**body, "tools": ANTHROPICS, "max_tokens": 9}).json()
        )["usage"]
        assert tokens == usage["input_tokens"] + usage["cache_read_input_tokens"]


async def output_of(client: Client, **fields: Any) -> list[Any]:
    told = await RESPONSES.send(client, "hi", tools=OPENAIS, max_tokens=500, **fields).json()
    output: list[Any] = told["output"]
    return output


async def test_responses_tell_a_call_as_an_item_of_its_own() -> None:
    async with serving(saying(f"One moment.\n{CALL}")) as client:
        message, call = await output_of(client)
        assert message["content"][0]["text"].strip() == "One moment."
        assert (call["type"], call["name"]) == ("function_call", "weather")
        assert json.loads(call["arguments"]) == {"city": "Oslo"}
        assert call["call_id"].startswith("call_")
        told = frames(await RESPONSES.send(client, "hi", stream=True, tools=OPENAIS, max_tokens=500).body())
        deltas = [data["delta"] for name, data in told if name == "response.function_call_arguments.delta"]
        assert json.loads("".join(deltas)) == {"city": "Oslo"}
        assert [data["sequence_number"] for _, data in told] == list(range(len(told)))


async def test_responses_unwrap_what_a_custom_tool_is_called_with() -> None:
    async with serving(saying(PATCH)) as client:
        call = (await output_of(client))[-1]
        assert (call["type"], call["name"], call["input"]) == ("custom_tool_call", "patch", "a\nb ü")


async def test_responses_make_a_call_come_that_must_come() -> None:
    async with serving(saying("No.")) as client:
        call = (await output_of(client, tool_choice={"type": "function", "name": "weather"}))[-1]
        assert (call["type"], call["name"]) == ("function_call", "weather")


@pytest.mark.parametrize("api", [MESSAGES, RESPONSES], ids=lambda api: api.name)
async def test_an_answer_is_what_a_schema_says(api: Any) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "name": "answer", "schema": schema}
    fields: dict[str, Any] = {"text": {"format": form}}
    if api is MESSAGES:
        fields = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    async with serving(saying("No idea.")) as client:
        told = await api.send(client, "hi", max_tokens=300, **fields).json()
        text = told["content"][0]["text"] if api is MESSAGES else told["output"][0]["content"][0]["text"]
        assert set(json.loads(text)) == {"ok"}
