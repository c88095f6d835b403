import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.clients.apis import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Api
from tools.clients.sse import Answer
from tools.clients.target import Chat


def frames(*events: dict[str, Any], is_named: bool = True) -> bytes:
    return b"".join(
        (b"event: %b\n" % event["type"].encode() if is_named else b"")
        + b"data: %b\n\n" % json.dumps(event).encode()
        for event in events
    )


def numbered(*events: dict[str, Any]) -> bytes:
    return frames(*(event | {"sequence_number": number} for number, event in enumerate(events)))


def message(stop: str | None, **usage: int) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": usage}


def said(text: str, kind: str = "text") -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": f"{kind}_delta", kind: text}}


PING = {"type": "ping"}
THOUGHT = said("Hm", "thinking")
MESSAGE_END = message("end_turn", output_tokens=2, input_tokens=5, cache_read_input_tokens=4)
RESPONSES_USAGE = {"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 4}}
CREATED = {"type": "response.created", "response": {"status": "in_progress"}}
DELTA = {"type": "response.output_text.delta", "delta": "lo"}
COMPLETED = {"type": "response.completed", "response": {"status": "completed", "usage": RESPONSES_USAGE}}
USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}

STREAMS: list[tuple[Api, bytes, str]] = [
    (
        MESSAGES,
        frames(
            THOUGHT, PING, message(None, output_tokens=1), said("lo"), MESSAGE_END, {"type": "message_stop"}
        ),
        "end_turn",
    ),
    (RESPONSES, numbered(CREATED, DELTA | {"delta": "Hm"}, CREATED, DELTA, COMPLETED), "completed"),
    (
        COMPLETIONS,
        frames(
            {"choices": [{"text": "Hm", "finish_reason": None}]},
            {"choices": [{"text": "lo", "finish_reason": "stop"}]},
            {"choices": [], "usage": USAGE},
            is_named=False,
        )
        + b"data: [DONE]\n\n",
        "stop",
    ),
]


def read(api: Api, *pieces: bytes) -> Answer:
    answer = Answer()
    reader = api.reader(answer)
    for at_s, piece in enumerate(pieces):
        reader.feed(piece, float(at_s))
    reader.finish()
    return answer


@pytest.mark.parametrize(("api", "stream", "reason"), STREAMS, ids=lambda value: getattr(value, "name", ""))
@given(data=st.data())
def test_a_stream_reads_the_same_wherever_it_is_cut(
    api: Api, stream: bytes, reason: str, data: st.DataObject
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6))
    answer = read(api, *(stream[a:b] for a, b in pairwise([0, *sorted(cuts), len(stream)])))
    assert (answer.violations, answer.text, answer.finish_reason) == ([], "Hmlo", reason)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.cached_tokens, answer.completion_tokens) == (9, 4, 2)


@pytest.mark.parametrize(("api", "stream", "reason"), STREAMS, ids=lambda value: getattr(value, "name", ""))
def test_a_stream_that_just_stops_is_not_whole(api: Api, stream: bytes, reason: str) -> None:
    *events, _last, _after = stream.split(b"\n\n")
    cut = read(api, b"\n\n".join([*events, b""]))
    assert any(f"without {api.reader(cut).last}" in violation for violation in cut.violations)


@pytest.mark.parametrize(
    ("api", "failure"),
    [
        (MESSAGES, frames({"type": "error", "error": {"type": "api_error", "message": "lost"}})),
        (
            RESPONSES,
            numbered(
                {"type": "response.failed", "response": {"status": "failed", "error": {"message": "lost"}}}
            ),
        ),
        (COMPLETIONS, frames({"error": {"message": "lost"}}, is_named=False)),
    ],
    ids=["messages", "responses", "completions"],
)
def test_a_failure_is_told(api: Api, failure: bytes) -> None:
    assert "lost" in read(api, failure).error


def test_a_gap_between_numbers_is_a_broken_rule() -> None:
    answer = read(
        RESPONSES, numbered(CREATED, DELTA).replace(b'"sequence_number": 1', b'"sequence_number": 2')
    )
    assert "event 2 where 1 is due" in answer.violations


def test_each_api_is_asked_for_the_same_conversation() -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    request = Chat(turns, 7, temperature=0.0, stream=True)
    chat, completion, message, response = (
        json.loads(api.body(request, "m")) for api in (CHAT, COMPLETIONS, MESSAGES, RESPONSES)
    )
    assert chat["messages"] == turns
    assert (message["system"], message["messages"]) == ("Be brief.", turns[1:])
    assert (response["instructions"], response["input"]) == ("Be brief.", turns[1:])
    assert "Be brief." in completion["prompt"]
    limits = (
        chat["max_tokens"],
        completion["max_tokens"],
        message["max_tokens"],
        response["max_output_tokens"],
    )
    assert limits == (7, 7, 7, 7)
