"""Tools, thoughts and structure in chat completions: what is asked for, and how it is told."""

import json
from typing import Any

import msgspec
import pytest

from corral.dialects import Head
from corral.dialects.openai.chat import ChatCall, ChatDialect
from corral.errors import InvalidRequest
from corral.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Finished,
    Usage,
    collect,
)
from corral.request import Grammar, Thinking, ToolChoice

HEAD = Head("chatcmpl-1", 1, "m", 9)
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}},
}
PATCH = {"type": "custom", "custom": {"name": "patch", "description": "Changes files."}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def call_of(**fields: Any) -> ChatCall:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return ChatDialect().parse(json.dumps(body).encode(), {})


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as error:
        call_of(**fields)
    return error.value


def thought_and_calls() -> list[Event]:
    return [
        BlockOpened(0, "reasoning"),
        BlockDelta(0, "Hm."),
        BlockClosed(0),
        BlockOpened(1, "tool", "call_1", "weather"),
        BlockDelta(1, '{"city": '),
        BlockDelta(1, '"Oslo"}'),
        BlockClosed(1),
        BlockOpened(2, "tool", "call_2", "patch"),
        BlockDelta(2, '{"input": "a\\n'),
        BlockDelta(2, 'b"}'),
        BlockClosed(2),
        Finished("tool_calls", None, Usage(9, 0, 20, 3)),
    ]


def deltas(call: ChatCall, events: list[Event]) -> list[dict[str, Any]]:
    stream = call.stream(HEAD)
    frames = [frame for event in events for frame in stream.encode(0, event).split(b"\n\n") if frame]
    return [json.loads(frame.removeprefix(b"data: "))["choices"][0]["delta"] for frame in frames]


def test_thoughts_and_calls_are_told_beside_the_text_as_they_come() -> None:
    told = deltas(call_of(stream=True, tools=[WEATHER, PATCH]), thought_and_calls())
    assert told == [
        {"reasoning_content": "Hm."},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]},
        {
            "tool_calls": [
                {"index": 1, "id": "call_2", "type": "custom", "custom": {"name": "patch", "input": ""}}
            ]
        },
        {"tool_calls": [{"index": 1, "custom": {"input": "a\n"}}]},
        {"tool_calls": [{"index": 1, "custom": {"input": "b"}}]},
        {},
    ]


def test_a_whole_answer_has_the_same() -> None:
    body = json.loads(call_of(tools=[WEATHER, PATCH]).complete(HEAD, [collect(thought_and_calls())]))
    choice = body["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "reasoning_content": "Hm.",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
            },
            {"id": "call_2", "type": "custom", "custom": {"name": "patch", "input": "a\nb"}},
        ],
    }
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ("auto", ToolChoice()),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "function": {"name": "weather"}}, ToolChoice("required", ("weather",))),
        ({"type": "custom", "custom": {"name": "patch"}}, ToolChoice("required", ("patch",))),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "weather"}}],
                },
            },
            ToolChoice("auto", ("weather",)),
        ),
    ],
)
def test_every_choice_of_tools_is_understood(choice: Any, wanted: ToolChoice) -> None:
    assert call_of(tools=[WEATHER, PATCH], tool_choice=choice).request.tool_choice == wanted


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1]"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"thinking_token_budget": 5, "thinking_budget_tokens": 6}, "thinking_budget_tokens"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Grammar("json_object", "", "response_format")),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            Grammar(
                "json_schema", msgspec.json.encode(SCHEMA).decode(), "response_format.json_schema.schema"
            ),
        ),
        (
            {"guided_json": msgspec.json.encode(SCHEMA).decode()},
            Grammar("json_schema", msgspec.json.encode(SCHEMA).decode(), "guided_json"),
        ),
        ({"structured_outputs": {"regex": "a+"}}, Grammar("regex", "a+", "structured_outputs.regex")),
        ({"guided_choice": ["a", "b"]}, Grammar("choice", '["a","b"]', "guided_choice")),
        ({"grammar": 'root ::= "a"'}, Grammar("gbnf", 'root ::= "a"', "grammar")),
        ({"grammar": 'start: "a"'}, Grammar("lark", 'start: "a"', "grammar")),
    ],
)
def test_every_way_to_ask_for_structure_is_understood(
    fields: dict[str, Any], grammar: Grammar | None
) -> None:
    found = call_of(**fields).request.grammar
    if grammar is not None and grammar.kind == "json_schema":
        assert found is not None
        assert json.loads(found.source) == json.loads(grammar.source)
        assert (found.kind, found.param) == (grammar.kind, grammar.param)
    else:
        assert found == grammar


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({}, Thinking()),
        ({"reasoning_effort": "none"}, Thinking(is_on=False)),
        ({"reasoning_effort": "high"}, Thinking(is_on=True, effort="high")),
        ({"thinking_budget_tokens": 50}, Thinking(budget_tokens=50)),
        ({"thinking_budget_tokens": -1}, Thinking()),
    ],
)
def test_how_to_think_is_understood(fields: dict[str, Any], thinking: Thinking) -> None:
    assert call_of(**fields).request.thinking == thinking


def test_earlier_thoughts_and_calls_come_back() -> None:
    messages = [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
                {"id": "2", "type": "custom", "custom": {"name": "patch", "input": 'a"b'}},
            ],
        },
        {"role": "tool", "content": "sunny", "tool_call_id": "1"},
    ]
    said = call_of(messages=messages).request.messages[1]
    assert said.reasoning == "Hm."
    assert [(call.id, call.name, json.loads(call.arguments)) for call in said.tool_calls] == [
        ("1", "weather", {}),
        ("2", "patch", {"input": 'a"b'}),
    ]
