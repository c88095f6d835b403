"""OpenAI's own package against a server on a socket: what its Responses helpers make of any answer."""

from functools import partial
from typing import Any

import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel
from tests.sdk.covers import covering
from tests.sdk.server import Server
from tests.sdk.tales import ARGUMENTS, PATCH

from corral.request import Message, Thinking, ToolCall

covers = partial(covering, "openai (Python)", "Responses")
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
APPLY_PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Changes files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "x"'},
}


class City(BaseModel):
    city: str


def asking(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "gpt-whatever", "input": text, "tools": [WEATHER, APPLY_PATCH], **fields}


def shown(response: Response) -> Any:
    """All but ids, and what the package's helper adds."""
    told = response.model_dump(mode="json", include={"output", "status", "incomplete_details", "usage"})
    for item in told["output"]:
        item["id"] = ""
        item.pop("parsed_arguments", None)
        for part in item.get("content") or ():
            part.pop("parsed", None)
    return told


@pytest.mark.parametrize("tale", ["SAY", "THINK SAY", "THINK CALL CALL", "PATCH", "SAY CALL", "STOP"])
def test_a_stream_and_an_answer_are_the_same_response(gpt: openai.OpenAI, tale: str) -> None:
    whole = gpt.responses.create(**asking(tale))
    with gpt.responses.stream(**asking(tale)) as stream:
        numbers = [event.sequence_number for event in stream]
        streamed = stream.get_final_response()
    assert shown(streamed) == shown(whole)
    assert numbers == list(range(len(numbers)))


@covers("stream", "reasoning")
def test_text_comes_as_it_is_said(gpt: openai.OpenAI) -> None:
    with gpt.responses.stream(**asking("THINK SAY")) as stream:
        events = list(stream)
    texts = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert texts == ["Hello ", "there, ", "wörld ☂."]
    thoughts = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
    assert thoughts == ["Let me ", "see."]
    assert stream.get_final_response().output_text == "".join(texts)


@pytest.mark.parametrize("stores", [True, False])
@covers("tools", "reasoning")
def test_a_tool_loop_goes_round_with_its_thoughts(gpt: openai.OpenAI, server: Server, stores: bool) -> None:
    sealed = {"store": False, "include": ["reasoning.encrypted_content"], "reasoning": {"summary": "auto"}}
    with gpt.responses.stream(**asking("THINK CALL", **({} if stores else sealed))) as stream:
        called = stream.get_final_response()
    [call] = [item for item in called.output if item.type == "function_call"]
    assert (call.name, call.arguments) == ("get_weather", ARGUMENTS)
    assert call.id != call.call_id
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "SAY"}
    if stores:
        answer = gpt.responses.create(**asking("") | {"input": [result]}, previous_response_id=called.id)
    else:
        thought = next(item for item in called.output if item.type == "reasoning")
        sent: dict[str, Any] = {"type": "reasoning", "id": thought.id, "summary": [], "content": None}
        history = [
            {"role": "user", "content": "THINK CALL"},
            {**sent, "encrypted_content": thought.encrypted_content},
            call.model_dump(exclude_none=True),
            result,
        ]
        answer = gpt.responses.create(**asking("") | {"input": history}, store=False)
    assert answer.output_text == "Hello there, wörld ☂."
    assert server.teller.asked[-1].messages == (
        Message("user", "THINK CALL"),
        Message(
            "assistant",
            "",
            tool_calls=(ToolCall("call_1", "get_weather", ARGUMENTS),),
            reasoning="Let me see.",
        ),
        Message("tool", "SAY", tool_call_id="call_1"),
    )


def test_items_can_be_referred_to(gpt: openai.OpenAI, server: Server) -> None:
    called = gpt.responses.create(**asking("THINK CALL"))
    history = [
        {"role": "user", "content": "THINK CALL"},
        *({"type": "item_reference", "id": item.id} for item in called.output),
        {"type": "function_call_output", "call_id": "call_1", "output": "SAY"},
    ]
    gpt.responses.create(**asking("") | {"input": history})
    turn = server.teller.asked[-1].messages[1]
    assert (turn.reasoning, [call.id for call in turn.tool_calls]) == ("Let me see.", ["call_1"])


def test_a_tool_with_free_input_gets_it_as_text(gpt: openai.OpenAI, server: Server) -> None:
    with gpt.responses.stream(**asking("PATCH")) as stream:
        deltas = [event.delta for event in stream if event.type == "response.custom_tool_call_input.delta"]
        [call] = stream.get_final_response().output
    assert call.type == "custom_tool_call"
    assert (call.name, call.input) == ("apply_patch", PATCH)
    assert "".join(deltas) == PATCH
    history = [
        {"role": "user", "content": "PATCH"},
        call.model_dump(exclude_none=True),
        {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "SAY"},
    ]
    answer = gpt.responses.create(**asking("") | {"input": history})
    assert answer.output_text
    shown_to_model = {tool.name: tool.description for tool in server.teller.asked[-1].tools}
    assert 'lark grammar:\nstart: "x"' in shown_to_model["apply_patch"]


def test_what_the_answer_shall_look_like_reaches_the_model(gpt: openai.OpenAI, server: Server) -> None:
    with pytest.raises(ValueError):  # the storyteller says no JSON
        gpt.responses.parse(**asking("SAY"), text_format=City, reasoning={"effort": "high"})
    request = server.teller.asked[-1]
    assert request.grammar is not None
    assert (request.grammar.kind, "city" in request.grammar.source) == ("json_schema", True)
    assert request.thinking == Thinking(is_on=True, effort="high")


def test_what_is_kept_is_found_listed_measured_and_deleted(gpt: openai.OpenAI) -> None:
    first = gpt.responses.create(**asking("SAY", metadata={"a": "b"}))
    assert gpt.responses.retrieve(first.id) == first
    second = gpt.responses.create(**asking("SAY again", previous_response_id=first.id))
    listed = list(gpt.responses.input_items.list(second.id, order="asc", limit=1))
    assert [item.type for item in listed] == ["message"] * 3
    measured = gpt.responses.input_tokens.count(input="SAY again", previous_response_id=first.id)
    assert second.usage is not None
    assert measured.input_tokens == second.usage.input_tokens
    gpt.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as gone:
        gpt.responses.create(**asking("SAY", previous_response_id=first.id))
    assert (gone.value.code, gone.value.param) == ("previous_response_not_found", "previous_response_id")


def test_a_stream_is_cancelled_by_its_id(gpt: openai.OpenAI) -> None:
    ends: list[str] = []
    id = ""
    for event in gpt.responses.create(**asking("ENDLESS"), stream=True):
        if event.type == "response.output_text.delta" and not ends:
            cancelled = gpt.responses.cancel(id)
            assert cancelled.status == "cancelled"
            ends.append("asked")
        elif event.type == "response.created":
            id = event.response.id
        elif event.type == "response.failed":
            ends.append(event.response.status or "")
    assert ends == ["asked", "cancelled"]
    assert gpt.responses.retrieve(id).status == "cancelled"


def test_an_answer_that_was_cut_is_incomplete(gpt: openai.OpenAI) -> None:
    whole = gpt.responses.create(**asking("SAY LENGTH"))
    *_, last = gpt.responses.create(**asking("SAY LENGTH"), stream=True)
    assert last.type == "response.incomplete"
    for response in (whole, last.response):
        assert response.status == "incomplete"
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_output_tokens"


@covers("error")
def test_errors_are_the_exceptions_of_the_package(gpt: openai.OpenAI, server: Server) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        gpt.responses.create(**asking("SAY", temperature=9))
    assert bad.value.param == "temperature"
    assert bad.value.request_id
    with pytest.raises(openai.BadRequestError) as long:
        gpt.responses.create(**asking("word " * 5000))
    assert long.value.code == "context_length_exceeded"
    wrong = openai.OpenAI(base_url=f"{server.base}/v1", api_key="wrong", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError):
        wrong.responses.create(**asking("SAY"))


@covers("error")
def test_a_failure_is_told_in_mid_stream_and_before_it(gpt: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="lost the thread"):
        gpt.responses.create(**asking("BREAK"))
    *_, last = gpt.responses.create(**asking("BREAK"), stream=True)
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message == "the storyteller lost the thread"
    assert last.response.output_text == "well "


@pytest.mark.parametrize("tale", ["SILENCE SAY", "THINK SILENCE SAY", "SAY SILENCE CALL"])
@covers("keepalive")
def test_silence_is_filled_and_leaves_no_trace(gpt: openai.OpenAI, server: Server, tale: str) -> None:
    expected = shown(gpt.responses.create(**asking(tale.replace("SILENCE ", ""))))
    expected["usage"]["input_tokens"] += 1
    expected["usage"]["total_tokens"] += 1
    with gpt.responses.stream(**asking(tale)) as stream:
        alive = 0
        for event in stream:
            alive += event.type == "response.in_progress"
            if alive == 4:
                server.end_silence()
                alive += 1
        assert alive > 4
        assert shown(stream.get_final_response()) == expected


@covers("cancel")
def test_leaving_ends_the_request(gpt: openai.OpenAI, server: Server) -> None:
    with gpt.responses.create(**asking("ENDLESS"), stream=True) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                break
    server.wait_settled()
