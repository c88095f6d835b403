"""What is the same in every API: a stream that its least client folds up is the whole answer.

However the model's text was cut on its way, and wherever there were silences. The least client appends what a
frame says; it knows nothing of the vendors' helpers, which have tests of their own.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.dialects.answers import cut_twice

from corral.dialects import Call, Head, StreamEncoder
from corral.dialects.anthropic.messages import MessagesDialect
from corral.dialects.openai.chat import ChatDialect
from corral.dialects.openai.completions import CompletionsDialect
from corral.dialects.openai.responses import ResponsesDialect
from corral.dialects.openai.responses_store import ResponsesStore
from corral.events import BlockKind, Completion, Event, collect

HEAD = Head("id-1", 1700000000, "smol", prompt_tokens=9)
CHAT = ChatDialect()
COMPLETIONS = CompletionsDialect()
MESSAGES = MessagesDialect(b"k")
RESPONSES = ResponsesDialect(ResponsesStore(2**20, 60.0, now=lambda: 0.0), b"k")

Frame = dict[str, Any]
Blocks = list[tuple[str, str]]
"""Kinds and texts, in order; of a call the text is its name, a space and its arguments."""


@dataclass(frozen=True)
class Answer:
    """What any client makes of an answer."""

    blocks: Blocks
    end: str
    output_tokens: int


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


TURN = [{"role": "user", "content": "hi"}]


# Chat: texts, thoughts and calls each add up; what was said between them is not told.


def chat_stream() -> StreamEncoder:
    asked = body(messages=TURN, stream=True, stream_options={"include_usage": True})
    return CHAT.parse(asked, {}).stream(HEAD)


def chat_folded(frames: Sequence[Frame]) -> Answer:
    said = {"reasoning": "", "text": ""}
    calls: list[list[str]] = []
    end = ""
    for frame in frames:
        for choice in frame["choices"]:
            assert not end, "nothing comes behind a finish_reason"
            delta = choice["delta"]
            said["reasoning"] += delta.get("reasoning_content") or ""
            said["text"] += delta.get("content") or ""
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    assert call["index"] == len(calls)
                    calls.append([call["function"]["name"], ""])
                calls[call["index"]][1] += call["function"]["arguments"]
            end = choice["finish_reason"] or ""
    return Answer(_chat_blocks(said, calls), end, frames[-1]["usage"]["completion_tokens"])


def chat_whole(completion: Completion) -> Answer:
    answer = json.loads(CHAT.parse(body(messages=TURN), {}).complete(HEAD, [completion]))
    [choice] = answer["choices"]
    message = choice["message"]
    said = {"reasoning": message.get("reasoning_content") or "", "text": message["content"] or ""}
    calls = [
        [call["function"]["name"], call["function"]["arguments"]] for call in message.get("tool_calls", ())
    ]
    return Answer(_chat_blocks(said, calls), choice["finish_reason"], answer["usage"]["completion_tokens"])


def _chat_blocks(said: dict[str, str], calls: list[list[str]]) -> Blocks:
    return [*said.items(), *(("tool", " ".join(call)) for call in calls)]


# Completions: text and nothing else.


def completions_stream() -> StreamEncoder:
    asked = body(prompt="hi", stream=True, stream_options={"include_usage": True})
    return COMPLETIONS.parse(asked, {}, "me").stream(HEAD, ("",))


def completions_folded(frames: Sequence[Frame]) -> Answer:
    choices = [choice for frame in frames for choice in frame["choices"]]
    assert all(choice["finish_reason"] is None for choice in choices[:-1])
    text = "".join(choice["text"] for choice in choices)
    return Answer([("text", text)], choices[-1]["finish_reason"], frames[-1]["usage"]["completion_tokens"])


def completions_whole(completion: Completion) -> Answer:
    call = COMPLETIONS.parse(body(prompt="hi"), {}, "me")
    answer = json.loads(call.complete(HEAD, ("",), [completion]))
    [choice] = answer["choices"]
    return Answer([("text", choice["text"])], choice["finish_reason"], answer["usage"]["completion_tokens"])


# Messages: blocks one after the other, by their index.

MESSAGE_KINDS = {"thinking": "reasoning", "text": "text", "tool_use": "tool"}


def messages_call(*, stream: bool = False) -> Call:
    return MESSAGES.parse(body(model="m", max_tokens=7, messages=TURN, stream=stream), {}, "me")


def messages_folded(frames: Sequence[Frame]) -> Answer:
    blocks: list[list[str]] = []
    for frame in frames:
        if frame["type"] == "content_block_start":
            assert frame["index"] == len(blocks)
            started = frame["content_block"]
            name = started["name"] + " " if started["type"] == "tool_use" else ""
            blocks.append([MESSAGE_KINDS[started["type"]], name])
        elif frame["type"] == "content_block_delta":
            assert frame["index"] == len(blocks) - 1
            delta = frame["delta"]
            blocks[-1][1] += delta.get("text", "") + delta.get("thinking", "") + delta.get("partial_json", "")
    last = frames[-2]
    told: Blocks = [(kind, _canonical(text) if kind == "tool" else text) for kind, text in blocks]
    return Answer(told, last["delta"]["stop_reason"], last["usage"]["output_tokens"])


def messages_whole(completion: Completion) -> Answer:
    answer = json.loads(messages_call().complete(HEAD, [completion]))
    blocks: Blocks = []
    for block in answer["content"]:
        text = block.get("text", "") + block.get("thinking", "")
        if block["type"] == "tool_use":
            text = _canonical(f"{block['name']} {json.dumps(block['input'])}")
        blocks.append((MESSAGE_KINDS[block["type"]], text))
    return Answer(blocks, answer["stop_reason"], answer["usage"]["output_tokens"])


def _canonical(call: str) -> str:
    """The arguments of a whole call are an object here, and not a text."""
    name, arguments = call.split(" ", 1)
    return f"{name} {json.dumps(json.loads(arguments))}"


# Responses: items by their index, and numbers without gaps.

ITEM_KINDS = {"reasoning": "reasoning", "message": "text", "function_call": "tool"}


def responses_call(*, stream: bool = False) -> Call:
    return RESPONSES.parse(body(input="hi", stream=stream, store=False), {}, "me")


def responses_folded(frames: Sequence[Frame]) -> Answer:
    assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))
    blocks: list[list[str]] = []
    for frame in frames:
        if frame["type"] == "response.output_item.added":
            assert frame["output_index"] == len(blocks)
            item = frame["item"]
            name = item["name"] + " " if item["type"] == "function_call" else ""
            blocks.append([ITEM_KINDS[item["type"]], name])
        elif "delta" in frame:
            assert frame["output_index"] == len(blocks) - 1
            blocks[-1][1] += frame["delta"]
    response = frames[-1]["response"]
    told: Blocks = [(kind, text) for kind, text in blocks]
    return Answer(told, response["status"], response["usage"]["output_tokens"])


def responses_whole(completion: Completion) -> Answer:
    answer = json.loads(responses_call().complete(HEAD, [completion]))
    blocks: Blocks = []
    for item in answer["output"]:
        if item["type"] == "function_call":
            text = f"{item['name']} {item['arguments']}"
        else:
            [part] = item["content"]
            text = part["text"]
        blocks.append((ITEM_KINDS[item["type"]], text))
    return Answer(blocks, answer["status"], answer["usage"]["output_tokens"])


@dataclass(frozen=True)
class Api:
    """`kinds`: the blocks that it can show; none named: all."""

    stream: Callable[[], StreamEncoder]
    folded: Callable[[Sequence[Frame]], Answer]
    whole: Callable[[Completion], Answer]
    kinds: tuple[BlockKind, ...] = ()


APIS = {
    "chat": Api(chat_stream, chat_folded, chat_whole),
    "completions": Api(completions_stream, completions_folded, completions_whole, ("text",)),
    "messages": Api(lambda: messages_call(stream=True).stream(HEAD), messages_folded, messages_whole),
    "responses": Api(lambda: responses_call(stream=True).stream(HEAD), responses_folded, responses_whole),
}


def frames_of(api: Api, events: Sequence[Event], silences: frozenset[int] = frozenset()) -> list[Frame]:
    """All frames of a stream, with keepalives before these events."""
    stream = api.stream()
    raw = stream.start()
    for index, event in enumerate(events):
        raw += (stream.keepalive() if index in silences else b"") + stream.encode(0, event)
    raw += stream.end()
    data = [line for line in raw.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in data if line != "data: [DONE]"]


@pytest.mark.parametrize("name", APIS)
@given(data=st.data())
def test_a_stream_folded_by_the_least_client_is_the_whole_answer_wherever_it_was_cut(
    name: str, data: st.DataObject
) -> None:
    api = APIS[name]
    one, other = data.draw(cut_twice(*api.kinds))
    silences = data.draw(st.frozensets(st.integers(0, len(one) - 1), max_size=3))
    whole = api.whole(collect(one))
    assert api.folded(frames_of(api, one, silences)) == whole
    assert api.folded(frames_of(api, other)) == whole
