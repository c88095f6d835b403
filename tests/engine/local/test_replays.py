"""Turns with calls come back as the model wrote them, and only where nothing has changed."""

import json
from typing import Any

import pytest
from tests.harness import serving

from corral.engine.local.replays import Replays, Transcript
from corral.engine.local.scripted import ScriptedBackend, replying
from corral.events import BlockClosed, BlockDelta, BlockOpened
from corral.request import GenerationRequest, Message, ToolCall

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
# Spaced as no template does it, and with a thought that no client sends back.
TURN = '<think>Hm.</think>Wait.<tool_call>{ "name":"look",  "arguments":{"depth" :  3} }</tool_call>'


def transcript(call_id: str = "call_1", size: int = 1) -> Transcript:
    said = Transcript()
    opened = (BlockOpened(0, "text"), BlockDelta(0, "Wait."), BlockClosed(0))
    said.heard(b"Wait." * size, "", opened)
    said.heard(b"", "<call>", ())
    call = (BlockOpened(1, "tool", call_id, "look"), BlockDelta(1, '{"depth": 3}'), BlockClosed(1))
    said.heard(b'look{"depth" :  3}', "", call)
    return said


def asked(**changes: Any) -> GenerationRequest:
    given: dict[str, Any] = {"id": "call_1", "name": "look", "arguments": '{"depth":3}', "content": "Wait."}
    given |= changes
    content = given.pop("content")
    call = ToolCall(**given)
    return GenerationRequest(messages=(Message("assistant", content, tool_calls=(call,)),))


def test_a_turn_that_comes_back_is_what_was_written() -> None:
    replays = Replays()
    replays.keep(transcript())
    [message] = replays.applied(asked()).messages
    assert message.verbatim == ("Wait.", "<call>", 'look{"depth" :  3}')


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "call_2"},
        {"name": "see"},
        {"arguments": '{"depth": 4}'},
        {"content": "No."},
        {"arguments": "{"},
    ],
)
def test_a_turn_that_was_changed_is_not(changes: dict[str, str]) -> None:
    replays = Replays()
    replays.keep(transcript())
    [message] = replays.applied(asked(**changes)).messages
    assert message.verbatim == ()


def test_what_is_remembered_is_bounded() -> None:
    replays = Replays(max_bytes=10_000)
    for number in range(100):
        replays.keep(transcript(f"call_{number}", size=100))
    kept = [bool(replays.applied(asked(id=f"call_{n}")).messages[0].verbatim) for n in range(100)]
    assert kept == sorted(kept), "the oldest are gone"
    assert 1 <= sum(kept) <= 10


async def test_ten_turns_of_tools_prefill_only_what_is_new() -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Look."}]
    async with serving(ScriptedBackend(replying(lambda _: TURN), ctx_tokens=16_384)) as client:
        for turn in range(10):
            answer = await client.chat(messages=messages, tools=[TOOL]).json()
            message, usage = answer["choices"][0]["message"], answer["usage"]
            if turn:
                result = json.dumps(messages[-1]["content"])
                new = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
                assert new <= 120 + len(result), f"turn {turn}: {new} tokens"
            del message["reasoning_content"]
            messages += [
                message,
                {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "x"},
            ]
