"""OpenAI's own package against a server on a socket: Chat Completions."""

from functools import partial
from typing import Any

import openai
import pytest
from tests.sdk.covers import covering
from tests.sdk.server import Server
from tests.sdk.tales import ARGUMENTS

covers = partial(covering, "openai (Python)", "Chat")


WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


def asking(text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "gpt-whatever", "messages": messages, "tools": [WEATHER], **fields}


@covers("stream")
def test_a_stream_and_an_answer_are_the_same_completion(gpt: openai.OpenAI) -> None:
    whole = gpt.chat.completions.create(**asking("SAY"))
    with gpt.chat.completions.stream(**asking("SAY")) as stream:
        texts = [event.delta for event in stream if event.type == "content.delta"]
        streamed = stream.get_final_completion()
    assert [text for text in texts if text] == ["Hello ", "there, ", "wörld ☂."]
    assert streamed.choices[0].message.content == whole.choices[0].message.content == "Hello there, wörld ☂."
    assert streamed.choices[0].finish_reason == whole.choices[0].finish_reason == "stop"


@covers("tools", "reasoning")
def test_a_tool_loop_goes_round_with_its_thoughts(gpt: openai.OpenAI, server: Server) -> None:
    whole = gpt.chat.completions.create(**asking("THINK SAY CALL CALL"))
    with gpt.chat.completions.stream(**asking("THINK SAY CALL CALL")) as stream:
        thoughts = [
            getattr(event.chunk.choices[0].delta, "reasoning_content", None) or ""
            for event in stream
            if event.type == "chunk"
        ]
        streamed = stream.get_final_completion()
    assert "".join(thoughts) == "Let me see."
    for answer in (whole, streamed):
        [choice] = answer.choices
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Hello there, wörld ☂.")
        calls = choice.message.tool_calls or []
        assert [call.id for call in calls] == ["call_2", "call_3"]
        for call in calls:
            assert call.type == "function"
            assert (call.function.name, call.function.arguments) == ("get_weather", ARGUMENTS)
    message = whole.choices[0].message.model_dump(exclude_none=True)
    messages = [
        {"role": "user", "content": "THINK SAY CALL CALL"},
        message,
        *({"role": "tool", "tool_call_id": id, "content": "SAY"} for id in ("call_2", "call_3")),
    ]
    answer = gpt.chat.completions.create(**asking("") | {"messages": messages})
    assert answer.choices[0].finish_reason == "stop"
    _, turn, *results = server.teller.asked[-1].messages
    assert (turn.reasoning, len(turn.tool_calls)) == ("Let me see.", 2)
    assert [result.tool_call_id for result in results] == ["call_2", "call_3"]


def test_the_model_is_listed(gpt: openai.OpenAI) -> None:
    [model] = gpt.models.list()
    assert (model.id, model.owned_by) == ("tales", "corral")
    assert gpt.models.retrieve("tales") == model


@covers("error")
def test_a_failure_is_an_exception_in_mid_stream_and_before_it(gpt: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="lost the thread"):
        gpt.chat.completions.create(**asking("BREAK"))
    told = []
    with pytest.raises(openai.APIError, match="lost the thread") as failed:
        told += [
            chunk.choices[0].delta.content
            for chunk in gpt.chat.completions.create(**asking("BREAK"), stream=True)
        ]
    assert failed.value.code == "engine_failed"


@covers("keepalive")
def test_silence_is_filled_and_leaves_no_trace(gpt: openai.OpenAI, server: Server) -> None:
    with gpt.chat.completions.stream(**asking("SILENCE SAY")) as stream:
        alive = 0
        for event in stream:
            alive += event.type == "chunk" and event.chunk.choices[0].delta.content is None
            if alive == 3:
                server.end_silence()
                alive += 1
        assert alive > 3
        assert stream.get_final_completion().choices[0].message.content == "Hello there, wörld ☂."


@covers("cancel")
def test_leaving_ends_the_request(gpt: openai.OpenAI, server: Server) -> None:
    with gpt.chat.completions.create(**asking("ENDLESS"), stream=True) as stream:
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break
    server.wait_settled()
