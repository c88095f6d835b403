"""Responses: what is taken from a request, and what OpenAI's own client makes of an answer."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response as OpenAIResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter
from tests.dialects.answers import answers, block, finished

from corral.dialects import Head
from corral.dialects.openai.responses import ResponsesCall, ResponsesDialect
from corral.dialects.openai.responses_store import ResponsesStore
from corral.errors import Cancelled, EngineFailed, InvalidRequest, PreviousResponseNotFound, prompt_too_long
from corral.events import Event, Prefill, Queued, Started, TokenLogprob, collect
from corral.request import Message, Thinking, ToolCall, ToolChoice

HEAD = Head("resp_1", 1700000000, "smol", prompt_tokens=9)
EVENTS: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
CUSTOM = {"type": "custom", "name": "patch", "format": {"type": "text"}}


def store(limit_bytes: int = 2**20) -> ResponsesStore:
    return ResponsesStore(limit_bytes, 60.0, now=lambda: 0.0)


def call_of(kept: ResponsesStore | None = None, client: str = "me", **fields: Any) -> ResponsesCall:
    dialect = ResponsesDialect(kept or store(), seal_key=b"k")
    return dialect.parse(json.dumps({"input": "hi", **fields}).encode(), {}, client)


def frames_of(events: list[Event], call: ResponsesCall) -> list[dict[str, Any]]:
    stream = call.stream(HEAD)
    return parsed(stream.start() + b"".join(stream.encode(0, event) for event in events) + stream.end())


def parsed(raw: bytes) -> list[dict[str, Any]]:
    frames = []
    for chunk in raw.decode().split("\n\n")[:-1]:
        name, data = chunk.split("\n")
        frames.append(json.loads(data.removeprefix("data: ")))
        assert frames[-1]["type"] == name.removeprefix("event: ")
    return frames


def folded(frames: list[dict[str, Any]]) -> Any:
    """What openai-python's helper makes of them; it raises where ids or orders do not fit."""
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for frame in frames:
        state.handle_event(EVENTS.validate_python(frame))
    return EVENTS.validate_python(frames[-1]).response  # type: ignore[union-attr]


def without_ids(response: dict[str, Any]) -> dict[str, Any]:
    return {**response, "output": [{**item, "id": ""} for item in response["output"]]}


@given(answers())
def test_a_folded_stream_is_the_whole_answer(events: list[Event]) -> None:
    call = call_of(tools=[FUNCTION], stream=True)
    whole = json.loads(call.complete(HEAD, [collect(events)]))
    frames = frames_of(events, call)
    folded(frames)
    assert without_ids(frames[-1]["response"]) == without_ids(whole)
    OpenAIResponse.model_validate(whole, strict=True)


@given(answers())
def test_frames_are_numbered_without_gaps_and_items_end_as_they_began(events: list[Event]) -> None:
    frames = frames_of(events, call_of())
    assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))
    assert [frame["type"] for frame in frames[:2]] == ["response.created", "response.in_progress"]
    added = [frame for frame in frames if frame["type"] == "response.output_item.added"]
    done = [frame for frame in frames if frame["type"] == "response.output_item.done"]
    assert [frame["output_index"] for frame in added] == list(range(len(added)))
    assert [(f["item"]["id"], f["item"]["type"]) for f in added] == [
        (f["item"]["id"], f["item"]["type"]) for f in done
    ]
    output = frames[-1]["response"]["output"]
    assert [item["id"] for item in output] == [frame["item"]["id"] for frame in done]
    for item in output:
        deltas = [f["delta"] for f in frames if f.get("item_id") == item["id"] and "delta" in f]
        texts = [part["text"] for part in item.get("content", [])] or [item.get("arguments", "")]
        assert "".join(deltas) == "".join(texts)


def test_a_keepalive_is_progress_with_the_next_number_and_the_same_response() -> None:
    stream = call_of(stream=True).stream(HEAD)
    raw = stream.start() + stream.keepalive()
    for event in [*block(0, "text", "a", "b"), *block(1, "tool", "{}", name="f"), finished("tool_calls")]:
        raw += stream.encode(0, event) + stream.keepalive()
    frames = parsed(raw + stream.end())
    folded(frames)
    assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))


def test_a_keepalive_tells_where_a_request_is_until_it_answers() -> None:
    stream = call_of(stream=True).stream(HEAD)
    told = []
    for event in (Queued(2, 41.52), Prefill(4, 9, 3, 120.0), Started(9, 3)):
        assert stream.encode(0, event) == b""
        [frame] = parsed(stream.keepalive())
        told.append({name: frame[name] for name in ("queue_progress", "prompt_progress") if name in frame})
    assert told == [
        {"queue_progress": {"position": 2, "eta_s": 41.5}},
        {"prompt_progress": {"total": 9, "cache": 3, "processed": 4, "time_ms": 120}},
        {},
    ]


@given(answers())
def test_a_keepalive_has_all_that_was_said_so_far(events: list[Event]) -> None:
    """openai-node throws away what it has when it reads one, and goes on from what is in it."""
    stream = call_of(tools=[FUNCTION], stream=True).stream(HEAD)
    raw = stream.start()
    for event in events:
        raw += stream.encode(0, event) + stream.keepalive()
    told: list[dict[str, Any]] = []
    for frame in parsed(raw + stream.end()):
        match frame["type"].removeprefix("response.").split("."):
            case ["in_progress"]:
                assert frame["response"]["output"] == told
            case ["output_item", "added"]:
                told.append(frame["item"])
            case ["output_item", "done"]:
                told[frame["output_index"]] = frame["item"]
            case ["content_part", "added"]:
                told[frame["output_index"]]["content"].append(frame["part"])
            case [_, "delta"]:
                item = told[frame["output_index"]]
                if "content_index" in frame:
                    item["content"][frame["content_index"]]["text"] += frame["delta"]
                else:
                    item["arguments"] += frame["delta"]
            case ["completed" | "incomplete"]:
                assert frame["response"]["output"] == told


def test_thoughts_are_reasoning_text_or_for_who_asks_a_summary_and_never_both() -> None:
    events = [*block(0, "reasoning", "let me", " see"), *block(1, "text", "yes"), finished()]
    plain = frames_of(events, call_of())
    assert "response.reasoning_text.delta" in {frame["type"] for frame in plain}
    assert plain[-1]["response"]["output"][0]["content"] == [{"type": "reasoning_text", "text": "let me see"}]
    asked = frames_of(events, call_of(reasoning={"effort": "low", "summary": "auto"}))
    kinds = {frame["type"] for frame in asked}
    assert "response.reasoning_summary_text.delta" in kinds
    assert not any("reasoning_text" in kind for kind in kinds)
    [thought, _] = asked[-1]["response"]["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "let me see"}]
    assert thought["content"] == []


def test_a_sealed_thought_is_opened_when_it_comes_back() -> None:
    events = [
        *block(0, "reasoning", "secret plan"),
        *block(1, "tool", "{}", name="f"),
        finished("tool_calls"),
    ]
    call = call_of(include=["reasoning.encrypted_content"], store=False, reasoning={"summary": "auto"})
    output = frames_of(events, call)[-1]["response"]["output"]
    sealed = output[0]["encrypted_content"]
    history = [
        {"type": "message", "role": "user", "content": "hi"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed},
        {k: output[1][k] for k in ("type", "call_id", "name", "arguments")},
        {"type": "function_call_output", "call_id": output[1]["call_id"], "output": "42"},
    ]
    assert call_of(input=history).request.messages == (
        Message("user", "hi"),
        Message("assistant", "", tool_calls=(ToolCall("call_1", "f", "{}"),), reasoning="secret plan"),
        Message("tool", "42", tool_call_id="call_1"),
    )
    history[1]["encrypted_content"] = "gAAAAABsomebody-elses"
    assert call_of(input=history).request.messages[1].reasoning == ""


def test_free_input_is_unwrapped_as_it_comes_and_wrapped_when_it_comes_back() -> None:
    events = [*block(0, "tool", '{"inp', 'ut":"*** Be', 'gin\\nx"}', name="patch"), finished("tool_calls")]
    call = call_of(tools=[CUSTOM])
    frames = frames_of(events, call)
    folded(frames)
    deltas = [f["delta"] for f in frames if f["type"] == "response.custom_tool_call_input.delta"]
    assert deltas == ["*** Be", "gin\nx"]
    [item] = frames[-1]["response"]["output"]
    assert (item["type"], item["input"], item["call_id"]) == ("custom_tool_call", "*** Begin\nx", "call_0")
    assert json.loads(call.complete(HEAD, [collect(events)]))["output"][0]["input"] == "*** Begin\nx"
    history = [
        {"role": "user", "content": "hi"},
        item,
        {
            "type": "custom_tool_call_output",
            "call_id": "call_0",
            "output": [{"type": "input_text", "text": "ok"}],
        },
    ]
    _, called, result = call_of(input=history, tools=[CUSTOM]).request.messages
    assert json.loads(called.tool_calls[0].arguments) == {"input": "*** Begin\nx"}
    assert result == Message("tool", "ok", tool_call_id="call_0")


def test_tools_in_a_namespace_are_flat_to_the_model_and_told_with_it() -> None:
    tools = [{"type": "namespace", "name": "mail", "tools": [FUNCTION]}, {"type": "web_search"}]
    call = call_of(tools=tools)
    assert [tool.name for tool in call.request.tools] == ["f"]
    [item] = frames_of([*block(0, "tool", "{}", name="f"), finished("tool_calls")], call)[-1]["response"][
        "output"
    ]
    assert item["namespace"] == "mail"


def test_tools_of_one_name_in_two_namespaces_are_told_apart() -> None:
    tools = [{"type": "namespace", "name": name, "tools": [FUNCTION]} for name in ("mail", "news")]
    call = call_of(tools=tools, tool_choice={"type": "function", "name": "f"})
    assert [tool.name for tool in call.request.tools] == ["mail__f", "news__f"]
    assert call.request.tool_choice == ToolChoice("required", ("mail__f", "news__f"))
    events = [*block(0, "tool", "{}", name="news__f"), finished("tool_calls")]
    [item] = frames_of(events, call)[-1]["response"]["output"]
    assert (item["name"], item["namespace"]) == ("f", "news")
    output = {"type": "function_call_output", "call_id": item["call_id"], "output": "no"}
    history = [{"role": "user", "content": "hi"}, item, output]
    [again] = call_of(input=history, tools=tools).request.messages[1].tool_calls
    assert again.name == "news__f"


def test_a_cut_answer_is_incomplete_and_says_why() -> None:
    frames = frames_of([*block(0, "text", "and so"), finished("length")], call_of())
    assert frames[-1]["type"] == "response.incomplete"
    response = frames[-1]["response"]
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][-1]["status"] == "incomplete"
    [done] = [frame["item"] for frame in frames if frame["type"] == "response.output_item.done"]
    assert done == response["output"][-1]


def test_a_failed_stream_ends_with_a_failed_response() -> None:
    stream = call_of(stream=True).stream(HEAD)
    raw = stream.start() + stream.fail(EngineFailed("gone"))
    frame = parsed(raw)[-1]
    assert frame["type"] == "response.failed"
    assert frame["response"]["status"] == "failed"
    assert frame["response"]["error"] == {"code": "engine_failed", "message": "gone"}


def test_usage_counts_what_clients_need_as_numbers() -> None:
    usage = frames_of([finished()], call_of())[-1]["response"]["usage"]
    assert usage == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 16,
    }


def test_log_probabilities_come_where_they_are_asked_for() -> None:
    call = call_of(include=["message.output_text.logprobs"], top_logprobs=1)
    assert call.request.top_logprobs == 1
    opened, _, delta, closed = block(0, "text", "a")
    delta = type(delta)(0, "a", (TokenLogprob(b"a", -0.5, (TokenLogprob(b"b", -1.0),)),))  # type: ignore[call-arg,arg-type]
    frames = frames_of([opened, delta, closed, finished()], call)
    [part] = frames[-1]["response"]["output"][0]["content"]
    assert part["logprobs"][0]["token"] == "a"
    assert part["logprobs"][0]["top_logprobs"] == [{"token": "b", "logprob": -1.0, "bytes": [98]}]


def test_a_conversation_goes_on_from_what_is_stored() -> None:
    kept = store()
    first = call_of(kept, instructions="be brief", input="what is 6 x 7?")
    first.complete(HEAD, [collect([*block(0, "text", "42"), finished()])])
    second = call_of(kept, previous_response_id="resp_1", input="and 7 x 7?")
    assert second.request.messages == (
        Message("user", "what is 6 x 7?"),
        Message("assistant", "42"),
        Message("user", "and 7 x 7?"),
    ), "instructions are not carried over"
    second.complete(replace(HEAD, id="resp_2"), [collect([*block(0, "text", "49"), finished()])])
    third = call_of(kept, previous_response_id="resp_2", input="why?")
    assert [turn.content for turn in third.request.messages] == [
        "what is 6 x 7?",
        "42",
        "and 7 x 7?",
        "49",
        "why?",
    ]
    for client, id in (("me", "resp_3"), ("somebody else", "resp_1")):
        with pytest.raises(PreviousResponseNotFound):
            call_of(kept, client, previous_response_id=id)


def test_what_is_stored_can_be_referred_to_instead_of_sent() -> None:
    kept = store()
    events = [*block(0, "reasoning", "hm"), *block(1, "tool", "{}", name="f"), finished("tool_calls")]
    output = json.loads(call_of(kept, input="weather?").complete(HEAD, [collect(events)]))["output"]
    history = [
        {"role": "user", "content": "weather?"},
        *({"type": "item_reference", "id": item["id"]} for item in output),
        {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
    ]
    assert call_of(kept, input=history).request.messages == (
        Message("user", "weather?"),
        Message("assistant", "", tool_calls=(ToolCall("call_1", "f", "{}"),), reasoning="hm"),
        Message("tool", "rain", tool_call_id="call_1"),
    )
    with pytest.raises(InvalidRequest) as refused:
        call_of(kept, "somebody else", input=history)
    assert refused.value.param == "input[1]"


def test_what_may_not_be_stored_is_not() -> None:
    kept = store()
    call_of(kept, store=False).complete(HEAD, [collect([finished()])])
    assert kept.size_bytes == 0


def test_a_server_that_stores_nothing_says_so() -> None:
    told = json.loads(call_of(store(0), store=True).complete(HEAD, [collect([finished()])]))
    assert told["store"] is False


@pytest.mark.parametrize(("events", "status"), [([], "failed"), ([finished("length")], "incomplete")])
def test_an_answer_that_did_not_end_well_is_stored_as_it_is(events: list[Event], status: str) -> None:
    kept = store()
    stream = call_of(kept, stream=True).stream(HEAD)
    raw = stream.start()
    opened, sampled, delta, closed = block(0, "text", "and so")
    for event in (opened, sampled, delta, *([closed, *events] if events else [])):
        raw += stream.encode(0, event)
    raw += stream.end() if events else stream.fail(EngineFailed("gone"))
    last = parsed(raw)[-1]["response"]
    stored = kept.find("me", "resp_1")
    assert stored is not None
    assert json.loads(stored.body) == last
    assert (last["status"], last["output"][0]["status"]) == (status, "incomplete")
    assert last["output"][0]["content"][0]["text"] == "and so"


def test_a_cancelled_stream_says_so() -> None:
    stream = call_of(stream=True).stream(HEAD)
    stream.start()
    [frame] = parsed(stream.fail(Cancelled("by its client")))
    assert (frame["type"], frame["response"]["status"]) == ("response.failed", "cancelled")
    assert frame["response"]["error"]["code"] == "cancelled"


def test_a_call_is_done_at_once_and_one_that_was_cut_is_not_whole() -> None:
    stream = call_of(stream=True).stream(HEAD)
    stream.start()
    for event in block(0, "tool", "{}", name="f"):
        raw = stream.encode(0, event)
    assert [frame["type"] for frame in parsed(raw)][-1] == "response.output_item.done"
    cut = [*block(0, "tool", '{"a', name="f", is_whole=False), finished("length")]
    frames = frames_of(cut, call_of())
    [done] = [frame["item"] for frame in frames if frame["type"] == "response.output_item.done"]
    assert (done["status"], done["arguments"]) == ("incomplete", '{"a')
    assert frames[-1]["response"]["output"] == [done]
    assert json.loads(call_of().complete(HEAD, [collect(cut)]))["output"][0]["status"] == "incomplete"


def test_what_a_client_ran_by_itself_is_a_call_by_the_name_it_has() -> None:
    history = [
        {"role": "user", "content": "list files"},
        {"type": "local_shell_call", "call_id": "c", "action": {"command": ["ls"]}, "status": "completed"},
        {"type": "local_shell_call_output", "call_id": "c", "output": "a.txt"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
    ]
    _, called, result = call_of(input=history).request.messages
    [call] = called.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("local_shell", {"command": ["ls"]})
    assert result == Message("tool", "a.txt", tool_call_id="c")


def test_what_codex_sends_is_accepted() -> None:
    request = call_of(
        model="gpt-5",
        instructions="You are a coding agent.",
        tools=[
            FUNCTION,
            CUSTOM,
            {"type": "local_shell"},
            {"type": "web_search", "external_web_access": False},
        ],
        tool_choice="auto",
        parallel_tool_calls=False,
        reasoning={"effort": "medium", "summary": "auto"},
        store=False,
        stream=True,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="k",
        text={"verbosity": "low"},
        service_tier="auto",
        client_metadata={"x": "y"},
    ).request
    assert request.thinking == Thinking(is_on=True, effort="medium")
    assert not request.calls_in_parallel
    assert [tool.name for tool in request.tools] == ["f", "patch"]


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        ("auto", ToolChoice()),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "f"}, ToolChoice("required", ("f",))),
        ({"type": "custom", "name": "patch"}, ToolChoice("required", ("patch",))),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
            ToolChoice("auto", ("f",)),
        ),
        ({"type": "web_search"}, ToolChoice()),
    ],
)
def test_a_choice_of_tools(choice: Any, meant: ToolChoice) -> None:
    assert call_of(tools=[FUNCTION, CUSTOM], tool_choice=choice).request.tool_choice == meant


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}]},
            "input[0].content[0]",
        ),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call", "name": "f", "call_id": "c"}]}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"metadata": {"a": "b" * 513}}, "metadata"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        call_of(**fields)
    assert refused.value.param == param


def test_a_prompt_that_does_not_fit_is_told_by_the_name_that_it_has_here() -> None:
    told = json.loads(
        ResponsesDialect(ResponsesStore(0, 1, now=lambda: 0.0), b"k")
        .error(prompt_too_long(9, 5), "req_1")
        .body
    )["error"]
    assert (told["param"], told["code"]) == ("input", "context_length_exceeded")
