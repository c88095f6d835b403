"""Anthropic's own package against a server on a socket: what its helpers make of every kind of answer."""

from functools import partial
from typing import Any

import anthropic
import pytest
from anthropic.types import Message, MessageParam, ToolParam
from tests.sdk.covers import covering
from tests.sdk.server import KEY, Server
from tests.sdk.tales import ARGUMENTS

from corral.request import Grammar, Thinking, ToolCall
from corral.request import Message as Turn

covers = partial(covering, "anthropic (Python)", "Messages")
WEATHER: ToolParam = {
    "name": "get_weather",
    "description": "What the weather will be.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    },
}


def asking(text: str, **fields: Any) -> dict[str, Any]:
    messages: list[MessageParam] = [{"role": "user", "content": text}]
    return {"model": "claude-whatever", "max_tokens": 500, "messages": messages, **fields}


def shown(message: Message) -> Any:
    return message.model_dump(
        mode="json", include={"content", "stop_reason", "stop_sequence"}, exclude_none=True
    )


@pytest.mark.parametrize("tale", ["SAY", "THINK SAY", "THINK CALL CALL", "SAY CALL", "SAY LENGTH", "STOP"])
def test_a_stream_and_an_answer_are_the_same_message(claude: anthropic.Anthropic, tale: str) -> None:
    whole = claude.messages.create(**asking(tale, tools=[WEATHER]))
    with claude.messages.stream(**asking(tale, tools=[WEATHER])) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert shown(streamed) == shown(whole)
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    assert kinds[-1] == "message_stop"
    assert whole.model == "tales"


@covers("stream", "reasoning")
def test_text_and_thoughts_come_as_they_are_said(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(**asking("THINK SAY")) as stream:
        events = list(stream)
    thoughts = [event.thinking for event in events if event.type == "thinking"]
    texts = [event.text for event in events if event.type == "text"]
    assert (thoughts, texts) == (["Let me ", "see."], ["Hello ", "there, ", "wörld ☂."])
    [thought, _] = stream.get_final_message().content
    assert thought.type == "thinking"
    assert thought.signature


@covers("tools", "reasoning")
def test_a_tool_loop_goes_round_with_its_thoughts(claude: anthropic.Anthropic, server: Server) -> None:
    with claude.messages.stream(**asking("THINK CALL", tools=[WEATHER])) as stream:
        called = stream.get_final_message()
    assert called.stop_reason == "tool_use"
    [call] = [block for block in called.content if block.type == "tool_use"]
    assert (call.name, call.input) == ("get_weather", {"city": "Oslo", "days": 3})
    assert call.id.startswith("toolu_")
    messages = [
        {"role": "user", "content": "THINK CALL"},
        {"role": "assistant", "content": called.content},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": call.id, "content": "rain"},
                {"type": "text", "text": "SAY"},
            ],
        },
    ]
    answer = claude.messages.create(**asking("", tools=[WEATHER]) | {"messages": messages})
    assert answer.stop_reason == "end_turn"
    _, turn, result, _ = server.teller.asked[-1].messages
    [made] = turn.tool_calls
    assert (turn.reasoning, made.name) == ("Let me see.", "get_weather")
    assert made == ToolCall("call_1", "get_weather", ARGUMENTS.replace(", ", ",").replace(": ", ":"))
    assert result == Turn("tool", "rain", tool_call_id="call_1")


def test_thoughts_that_were_left_out_come_back_all_the_same(
    claude: anthropic.Anthropic, server: Server
) -> None:
    thinking = {"type": "adaptive", "display": "omitted"}
    with claude.messages.stream(**asking("THINK SAY", thinking=thinking)) as stream:
        said = stream.get_final_message()
    [thought, _] = said.content
    assert thought.type == "thinking"
    assert thought.thinking == ""
    messages = [
        {"role": "user", "content": "THINK SAY"},
        {"role": "assistant", "content": said.content},
        {"role": "user", "content": "SAY"},
    ]
    claude.messages.create(**asking("") | {"messages": messages})
    assert server.teller.asked[-1].messages[1].reasoning == "Let me see."


def test_what_the_answer_shall_look_like_reaches_the_model(
    claude: anthropic.Anthropic, server: Server
) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    claude.messages.create(
        **asking(
            "SAY",
            output_config={"effort": "low", "format": {"type": "json_schema", "schema": schema}},
            thinking={"type": "enabled", "budget_tokens": 1024},
        )
    )
    request = server.teller.asked[-1]
    assert isinstance(request.grammar, Grammar)
    assert request.grammar.kind == "json_schema"
    assert request.thinking == Thinking(is_on=True, effort="low", budget_tokens=1024)


def test_a_prompt_is_counted(claude: anthropic.Anthropic) -> None:
    messages: list[MessageParam] = [{"role": "user", "content": "one two three"}]
    counted = claude.messages.count_tokens(model="any", system="be brief", messages=messages)
    assert counted.input_tokens == 5
    usage = claude.messages.create(model="any", system="be brief", messages=messages, max_tokens=9).usage
    assert usage.input_tokens == 5


@covers("error")
def test_errors_are_the_exceptions_of_the_package(claude: anthropic.Anthropic, server: Server) -> None:
    with pytest.raises(anthropic.BadRequestError) as bad:
        claude.messages.create(**asking("SAY", extra_body={"temperature": 9}))
    assert bad.value.request_id
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long: 5000 tokens > 4096 maximum"):
        claude.messages.create(**asking("word " * 5000))
    with pytest.raises(anthropic.NotFoundError):
        claude.post("/v1/nothing", cast_to=object)
    wrong = anthropic.Anthropic(base_url=server.base, api_key="wrong", max_retries=0)
    with wrong, pytest.raises(anthropic.AuthenticationError):
        wrong.messages.create(**asking("SAY"))
    bearer = anthropic.Anthropic(base_url=server.base, auth_token=KEY, max_retries=0)
    with bearer:
        assert bearer.messages.create(**asking("SAY")).stop_reason == "end_turn"


@covers("error")
def test_a_failure_is_an_exception_in_mid_stream_and_before_it(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.APIStatusError, match="lost the thread"):
        claude.messages.create(**asking("BREAK"))
    told = []
    with (
        pytest.raises(anthropic.APIStatusError, match="lost the thread"),
        claude.messages.stream(**asking("BREAK")) as stream,
    ):
        told += [event.type for event in stream]
    assert "message_stop" not in told


@pytest.mark.parametrize("tale", ["SILENCE SAY", "THINK SILENCE SAY", "SAY SILENCE CALL"])
@covers("keepalive")
def test_silence_is_filled_and_leaves_no_trace(
    claude: anthropic.Anthropic, server: Server, tale: str
) -> None:
    whole = asking(tale.replace("SILENCE ", ""), tools=[WEATHER])
    expected = shown(claude.messages.create(**whole))
    with claude.messages.stream(**asking(tale, tools=[WEATHER])) as stream:
        alive = 0
        for event in stream:
            alive += event.type == "message_delta" and event.delta.stop_reason is None
            if alive == 3:
                server.end_silence()
                alive += 1
        assert alive > 3
        assert shown(stream.get_final_message()) == expected


@covers("cancel")
def test_leaving_ends_the_request(claude: anthropic.Anthropic, server: Server) -> None:
    with claude.messages.stream(**asking("ENDLESS")) as stream:
        for text in stream.text_stream:
            if text:
                break
    server.wait_settled()


async def test_its_client_for_event_loops_does_the_same(server: Server) -> None:
    async with (
        anthropic.AsyncAnthropic(base_url=server.base, api_key=KEY, max_retries=0) as claude,
        claude.messages.stream(**asking("THINK SAY")) as stream,
    ):
        texts = [text async for text in stream.text_stream]
    assert "".join(texts) == "Hello there, wörld ☂."
