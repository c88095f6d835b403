"""Messages: what is taken from a request, and what Anthropic's own client makes of an answer."""

import json
from typing import Any

import msgspec
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given
from pydantic import TypeAdapter
from tests.dialects.answers import answers, block, finished

from corral.dialects import Head
from corral.dialects.anthropic.messages import MessagesCall, MessagesDialect
from corral.errors import ContextExceeded, EngineFailed, InvalidRequest, QueueFull
from corral.events import Event, Prefill, Queued, Started, collect
from corral.request import Message as Turn
from corral.request import Thinking, ToolChoice

DIALECT = MessagesDialect(seal_key=b"k")
HEAD = Head("msg_1", 1700000000, "smol", prompt_tokens=9, ctx_tokens=15)
EVENTS: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
WEATHER = {"name": "get_weather", "description": "weather", "input_schema": {"type": "object"}}


DOCUMENT: dict[str, Any] = {
    "type": "document",
    "title": "Tides",
    "context": "From a book.",
    "source": {"type": "text", "media_type": "text/plain", "data": "High at noon."},
    "citations": {"enabled": False},
}
SEARCHED: dict[str, Any] = {
    "type": "search_result",
    "source": "https://sea.example",
    "title": "Sea",
    "content": [{"type": "text", "text": "It is salt."}, {"type": "text", "text": "It is wet."}],
}


def call_of(**fields: Any) -> MessagesCall:
    body = {"model": "m", "max_tokens": 7, "messages": [{"role": "user", "content": "hi"}], **fields}
    return DIALECT.parse(json.dumps(body).encode(), {}, "me")


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        call_of(**fields)
    return refused.value


def frames_of(events: list[Event], **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    """All frames of a stream: the event's name and its data."""
    stream = call_of(stream=True, **fields).stream(HEAD)
    raw = stream.start() + b"".join(stream.encode(0, event) for event in events) + stream.end()
    return parsed(raw)


def parsed(raw: bytes) -> list[tuple[str, dict[str, Any]]]:
    frames = []
    for chunk in raw.decode().split("\n\n")[:-1]:
        name, data = chunk.split("\n")
        frames.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    assert all(name == data["type"] for name, data in frames)
    return frames


def folded(frames: list[tuple[str, dict[str, Any]]]) -> Message:
    """What anthropic-python makes of them."""
    snapshot = None
    arguments: dict[int, bytes] = {}
    for name, data in frames:
        if name != "ping":
            event = EVENTS.validate_python(data)
            snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=arguments)
    assert snapshot is not None
    return snapshot


@given(answers())
def test_a_folded_stream_is_the_whole_answer(events: list[Event]) -> None:
    whole = Message.model_validate_json(call_of().complete(HEAD, [collect(events)]))
    streamed = folded(frames_of(events))
    exclude = {"usage": {"cache_creation_input_tokens"}}
    assert json.loads(streamed.model_dump_json(exclude=exclude, exclude_none=True)) == json.loads(
        whole.model_dump_json(exclude=exclude, exclude_none=True)
    )


@given(answers())
def test_blocks_follow_one_another_without_gaps_and_the_stream_ends(events: list[Event]) -> None:
    frames = frames_of(events)
    assert [name for name, _ in frames[:1]] == ["message_start"]
    assert [name for name, _ in frames[-2:]] == ["message_delta", "message_stop"]
    opened: int | None = None
    began = 0
    for name, data in frames[1:-2]:
        if name == "content_block_start":
            assert opened is None
            assert data["index"] == began
            opened, began = began, began + 1
        else:
            assert data["index"] == opened
            if name == "content_block_stop":
                opened = None
    assert opened is None


def test_a_keepalive_is_what_claude_code_counts_as_life_and_adds_nothing() -> None:
    thought, said = block(0, "reasoning", "hm"), block(1, "text", "yes")
    called = block(2, "tool", '{"city":', '"Oslo"}', name="get_weather")
    stream = call_of(stream=True).stream(HEAD)
    raw = stream.start() + stream.keepalive()
    for event in [*thought, *said, *called, finished("tool_calls")]:
        raw += stream.encode(0, event) + stream.keepalive()
    message = folded(parsed(raw + stream.end()))
    assert [content.type for content in message.content] == ["thinking", "text", "tool_use"]
    assert message.content[2].input == {"city": "Oslo"}  # type: ignore[union-attr]
    kinds = [data["delta"].get("type", name) for name, data in parsed(raw) if "delta" in data]
    assert {"thinking_delta", "text_delta", "input_json_delta", "message_delta"} <= set(kinds)


def test_a_ping_tells_where_a_request_is_until_it_answers() -> None:
    stream = call_of(stream=True).stream(HEAD)
    assert parsed(stream.keepalive())[0] == ("ping", {"type": "ping"})
    told = []
    for event in (Queued(2, 41.52), Queued(1), Prefill(4, 9, 3, 120.0), Started(9, 3)):
        assert stream.encode(0, event) == b""
        [ping, *_] = parsed(stream.keepalive())
        told.append({name: value for name, value in ping[1].items() if name != "type"})
    assert told == [
        {"queue_progress": {"position": 2, "eta_s": 41.5}},
        {"queue_progress": {"position": 1, "eta_s": None}},
        {"prompt_progress": {"total": 9, "cache": 3, "processed": 4, "time_ms": 120}},
        {},
    ]


def test_a_thought_is_signed_and_known_when_it_comes_back() -> None:
    [_, _, _, (name, data), *_] = frames_of([*block(0, "reasoning", "let me see"), finished()])
    assert (name, data["delta"]["type"]) == ("content_block_delta", "signature_delta")
    assert data["delta"]["signature"] == call_of().seal.signature("let me see") != ""
    history = [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "let me see", "signature": data["delta"]["signature"]},
                {"type": "thinking", "thinking": "and this", "signature": ""},
                {"type": "redacted_thinking", "data": "xyz"},
                {"type": "text", "text": "hello"},
            ],
        },
        {"role": "user", "content": "again"},
    ]
    request = call_of(messages=history).request
    assert request.messages[1] == Turn("assistant", "hello", reasoning="let me see\nand this")


def test_thoughts_can_be_left_out_and_are_signed_all_the_same() -> None:
    events = [*block(0, "reasoning", "secret"), *block(1, "text", "yes"), finished()]
    fields = {"thinking": {"type": "adaptive", "display": "omitted"}}
    assert "secret" not in json.dumps(frames_of(events, **fields))
    whole = call_of(**fields).complete(HEAD, [collect(events)])
    assert b"secret" not in whole
    streamed = folded(frames_of(events, **fields)).model_dump(mode="json", exclude_none=True)["content"]
    for content in (streamed, json.loads(whole)["content"]):
        history = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": content},
            {"role": "user", "content": "go on"},
        ]
        known = call_of(messages=history).request.messages[1]
        assert known == Turn("assistant", "yes", reasoning="secret"), "it comes back as it was"
        content[0]["signature"] = "c29tZWJvZHkgZWxzZSdz"
        assert call_of(messages=history).request.messages[1].reasoning == ""


@pytest.mark.parametrize(
    ("end", "reason", "sequence"),
    [
        (finished("stop"), "end_turn", None),
        (finished("stop_sequence", "###"), "stop_sequence", "###"),
        (finished("tool_calls"), "tool_use", None),
        (finished("length", completion=7), "max_tokens", None),
        (finished("length", completion=6), "model_context_window_exceeded", None),
        (finished("length", completion=5), "max_tokens", None),  # the server's own limit
    ],
)
def test_every_end_has_its_own_name(end: Any, reason: str, sequence: str | None) -> None:
    events = [*block(0, "text", "hm"), end]
    streamed = folded(frames_of(events))
    whole = json.loads(call_of().complete(HEAD, [collect(events)]))
    assert (streamed.stop_reason, streamed.stop_sequence) == (reason, sequence)
    assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, sequence)


def test_cached_tokens_are_counted_apart() -> None:
    usage = json.loads(call_of().complete(HEAD, [collect([finished()])]))["usage"]
    assert usage["input_tokens"] == 5
    assert usage["cache_read_input_tokens"] == 4
    assert usage["output_tokens"] == 7
    assert usage["output_tokens_details"] == {"thinking_tokens": 2}


def test_a_call_that_was_cut_is_closed_in_a_whole_answer() -> None:
    events = [*block(0, "tool", '{"city": "Os', name="f", is_whole=False), finished("length")]
    [content] = json.loads(call_of().complete(HEAD, [collect(events)]))["content"]
    assert content == {"type": "tool_use", "id": "toolu_0", "name": "f", "input": {"city": "Os"}}


def test_a_call_that_was_cut_in_a_number_longer_than_python_reads_is_closed_too() -> None:
    written = '{"n": ' + "3" * 5000
    events = [*block(0, "tool", written, name="f", is_whole=False), finished("length")]
    assert f'"input":{written}}}'.encode() in call_of().complete(HEAD, [collect(events)])


def test_a_failed_stream_ends_with_an_error_event_and_nothing_after_it() -> None:
    stream = call_of(stream=True).stream(HEAD)
    stream.start()
    [(name, data)] = parsed(stream.fail(EngineFailed("gone")))
    assert name == "error"
    assert data["error"] == {"type": "api_error", "message": "gone"}


def test_errors_before_the_headers_are_anthropics() -> None:
    reply = DIALECT.error(QueueFull("full", retry_after_s=3), "req_1")
    assert reply.status == 429
    assert reply.headers == {"Retry-After": "3"}
    assert json.loads(reply.body) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "full"},
        "request_id": "req_1",
    }
    long = ContextExceeded("too long", prompt_tokens=9000, limit_tokens=8192, param="messages")
    told = json.loads(DIALECT.error(long, "req_3").body)["error"]
    assert told["message"] == "prompt is too long: 9000 tokens > 8192 maximum", "Claude Code reads this"
    bug = DIALECT.error(ZeroDivisionError("secret"), "req_2")
    assert bug.status == 500
    assert b"secret" not in bug.body


def test_a_tool_loop_comes_back_as_calls_and_results() -> None:
    history = [
        {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "let me look"},
                {"type": "tool_use", "id": "toolu_7", "name": "get_weather", "input": {"city": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "go on"},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_7",
                    "content": [{"type": "text", "text": "no"}],
                    "is_error": True,
                },
            ],
        },
    ]
    request = call_of(messages=history, tools=[WEATHER], tool_choice={"type": "any"}).request
    _, called, result, said = request.messages
    [call] = called.tool_calls
    assert (call.id, call.name, json.loads(call.arguments)) == ("call_7", "get_weather", {"city": "Oslo"})
    assert result == Turn("tool", "no", tool_call_id="call_7", is_error=True)
    assert said == Turn("user", "go on")
    assert request.tool_choice == ToolChoice("required")
    assert request.tools[0].name == "get_weather"


def test_claude_codes_changing_first_block_is_dropped() -> None:
    system = [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=7f3a1;"},
        {"type": "text", "text": "You are helpful.", "cache_control": {"type": "ephemeral"}},
    ]
    assert call_of(system=system).request.messages[0] == Turn("system", "You are helpful.")


def test_what_claude_code_sends_is_accepted() -> None:
    request = call_of(
        max_tokens=32000,
        metadata={"user_id": "u"},
        thinking={"type": "enabled", "budget_tokens": 4000},
        context_management={"edits": []},
        output_config={"effort": "high"},
        temperature=1,
        betas=["x"],
    ).request
    assert request.thinking == Thinking(is_on=True, effort="high", budget_tokens=4000)
    assert request.is_clipped
    assert request.max_tokens == 32000


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
        ({"tool_choice": {"type": "tool", "name": "g"}, "tools": [WEATHER]}, "tool_choice.name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"thinking": {"type": "maybe"}}, "thinking.type"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"temperature": 3}, "temperature"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "messages.0.content.0",
        ),
        (
            {"messages": [{"role": "user", "content": [{**SEARCHED, "citations": {"enabled": True}}]}]},
            "messages.0.content.0.citations",
        ),
        (
            {"messages": [{"role": "user", "content": [{**DOCUMENT, "citations": {"enabled": True}}]}]},
            "messages.0.content.0.citations",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "document",
                                "source": {"type": "content", "content": [{"type": "image", "source": {}}]},
                            }
                        ],
                    }
                ]
            },
            "messages.0.content.0.source.content",
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}],
                    }
                ]
            },
            "messages.0",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields).param == param


def test_documents_and_search_results_are_read_with_what_is_said_of_them() -> None:
    found = [{"type": "text", "text": "High"}, {"type": "text", "text": "at noon."}]
    pieces = {"type": "document", "source": {"type": "content", "content": found}}
    whole = {"type": "document", "source": {"type": "content", "content": "Low at six."}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [SEARCHED, DOCUMENT]}
    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    told = call_of(
        messages=[
            {"role": "user", "content": [DOCUMENT, pieces, whole]},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ]
    ).request.messages
    assert told[0].content == "Tides\nFrom a book.\nHigh at noon.\nHigh\nat noon.\nLow at six."
    assert told[2].content == (
        "Sea\nhttps://sea.example\nIt is salt.\nIt is wet.\nTides\nFrom a book.\nHigh at noon."
    )


def test_structure_is_asked_for_by_a_schema() -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    for fields in ({"output_config": {"format": form}}, {"output_format": form}):
        grammar = call_of(**fields).request.grammar
        assert grammar is not None
        assert msgspec.json.decode(grammar.source) == {"type": "object"}
