"""What upstreams stream, as events: whole answers, broken ones, and numbers that cannot be true."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.tales import asking

from corral.engine.upstream.answer import DONE, Answer
from corral.engine.upstream.faults import Fault
from corral.errors import ContextExceeded, EngineFailed, InvalidRequest
from corral.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Finished,
    Prefill,
    Sampled,
    Started,
    Usage,
    collect,
)
from corral.request import GenerationRequest, Sampling


def heard(*chunks: Any, request: GenerationRequest | None = None) -> list[Event]:
    answer = Answer(request or asking("hello"), 7)
    events: list[Event] = []
    for chunk in chunks:
        events += answer.feed(json.dumps(chunk).encode())
    events += answer.feed(DONE)
    assert answer.is_over
    return events + answer.end()


def said(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def counted(prompt: Any, completion: Any, **details: Any) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion, **details}}


def called(
    index: int | None, name: str | None = None, arguments: str | None = None, id: str | None = None
) -> Any:
    return said(tool_calls=[{"index": index, "id": id, "function": {"name": name, "arguments": arguments}}])


def test_text_is_a_block_and_the_upstreams_counts_are_its_usage() -> None:
    usage = counted(12, 3, prompt_tokens_details={"cached_tokens": 5})
    events = heard(
        said(role="assistant", content=""), said(content="a"), said(content="b"), said("stop"), usage
    )
    assert events == [
        Started(7, 0),
        Sampled(1),
        BlockOpened(0, "text"),
        BlockDelta(0, "a"),
        Sampled(1),
        BlockDelta(0, "b"),
        Sampled(1),
        BlockClosed(0),
        Finished("stop", None, Usage(12, 5, 3)),
    ]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_are_a_block_of_their_own(name: str) -> None:
    completion = collect(heard(said(**{name: "hm"}), said(content="yes"), said("stop")))
    assert (completion.reasoning, completion.text) == ("hm", "yes")
    assert completion.finished.usage == Usage(7, 0, 2, reasoning_tokens=1)


def test_calls_are_blocks_one_after_the_other() -> None:
    completion = collect(
        heard(
            called(0, "look", "", "c1"),
            called(0, None, '{"a"'),
            called(0, None, ": 1}"),
            called(1, "go", '{"b": 2}', "c2"),
            said("tool_calls"),
        )
    )
    assert [(call.call_id, call.name, call.text, call.is_whole) for call in completion.calls] == [
        ("c1", "look", '{"a": 1}', True),
        ("c2", "go", '{"b": 2}', True),
    ]
    assert completion.finished.reason == "tool_calls"


def test_a_call_without_arguments_has_an_empty_object_and_one_without_an_id_gets_one() -> None:
    [call] = collect(heard(called(0, "look"), said("tool_calls"))).calls
    assert call.text == "{}"
    assert call.call_id


def test_a_call_that_was_cut_is_not_whole() -> None:
    [call] = collect(heard(called(0, "look", '{"a": '), said("length"))).calls
    assert (call.text, call.is_whole) == ('{"a": ', False)


def test_a_piece_of_a_call_that_is_over_is_a_fault() -> None:
    with pytest.raises(Fault, match="pieces of a call"):
        heard(called(0, "a", "{}"), called(1, "b", "{}"), called(0, None, "{}"))


def test_progress_says_how_long_the_prompt_is() -> None:
    progress = {"prompt_progress": {"total": 40, "cache": 8, "processed": 16, "time_ms": 3}}
    events = heard(progress, said(content="a"), said("stop"))
    assert events[:2] == [Prefill(16, 40, 8), Started(40, 8)]


def test_a_stop_string_or_token_that_was_asked_for_is_named() -> None:
    request = asking("x", stop=("END",), sampling=Sampling(stop_tokens=(9,)))
    ended: Any = {"choices": [{"delta": {}, "finish_reason": "stop", "stop_reason": "END"}]}
    assert heard(ended, request=request)[-1] == Finished("stop_sequence", "END", Usage(7, 0, 0))
    ended = {"choices": [{"delta": {}, "finish_reason": "stop", "matched_stop": 9}]}
    assert heard(ended, request=request)[-1] == Finished("stop", None, Usage(7, 0, 0), stop_token=9)


def test_log_probabilities_are_passed_on_with_their_bytes() -> None:
    content = [
        {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -1.0}]}
    ]
    chunk = {"choices": [{"delta": {"content": "a"}, "logprobs": {"content": content}}]}
    [block] = collect(heard(chunk, said("stop"))).blocks
    [logprob] = block.logprobs
    assert (logprob.raw, logprob.logprob, logprob.top[0].raw) == (b"a", -0.5, b"b")


@pytest.mark.parametrize(
    ("prompt", "completion", "usage"),
    [
        (-1, -1, Usage(7, 0, 2)),
        ("many", None, Usage(7, 0, 2)),
        (True, 2.5, Usage(7, 0, 2)),
        (10**30, 10**30, Usage(7, 0, 2)),
        (0, 2, Usage(7, 0, 2)),
        (9, 1, Usage(9, 0, 1)),
    ],
)
def test_counts_that_cannot_be_are_ours_instead(prompt: Any, completion: Any, usage: Usage) -> None:
    finished = heard(said(content="a"), said(content="b"), said("stop"), counted(prompt, completion))[-1]
    assert isinstance(finished, Finished)
    assert finished.usage == usage


def test_usage_in_every_chunk_counts_tokens_as_they_come() -> None:
    chunks: list[Any] = [
        {**said(content="abc"), "usage": {"prompt_tokens": 5, "completion_tokens": 3}},
        said("stop"),
    ]
    events = heard(*chunks)
    assert Sampled(3) in events
    assert events[0] == Started(5, 0)


@pytest.mark.parametrize("finish", [None, "abort", "content_filter"])
def test_an_answer_that_does_not_end_well_has_failed(finish: str | None) -> None:
    with pytest.raises(Fault) as caught:
        heard(said(content="a"), said(finish))
    assert isinstance(caught.value.error, EngineFailed)


@pytest.mark.parametrize("garbage", [b"<html>", b"[]", b'{"choices": 3}', b"[" * 5000, b"\xff", b""])
def test_garbage_is_a_fault(garbage: bytes) -> None:
    with pytest.raises(Fault, match="no answer"):
        Answer(asking("x"), 1).feed(garbage)


@pytest.mark.parametrize(
    ("error", "kind", "elsewhere"),
    [
        ({"message": "boom", "code": 500}, EngineFailed, True),
        ({"message": "bad tool", "code": 400}, InvalidRequest, False),
        ({"message": "bad tool", "type": "invalid_request_error"}, InvalidRequest, False),
        (
            {"message": "x", "code": "context_length_exceeded", "type": "invalid_request_error"},
            ContextExceeded,
            False,
        ),
        ("out of memory", EngineFailed, True),
        ({}, EngineFailed, True),
    ],
)
def test_an_error_in_the_stream_is_told_as_ours(error: Any, kind: type[Exception], elsewhere: bool) -> None:
    with pytest.raises(Fault) as caught:
        Answer(asking("x"), 1).feed(json.dumps({"error": error}).encode())
    assert type(caught.value.error) in (kind, *kind.__subclasses__())
    assert caught.value.elsewhere is elsewhere


_WORDS = (
    "choices delta content reasoning tool_calls index id function name arguments finish_reason usage error"
)
_NAMES = st.sampled_from(f"{_WORDS} logprobs token logprob bytes prompt_tokens prompt_progress total".split())
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(_JSON, max_size=8))
def test_whatever_comes_becomes_events_or_a_fault_and_events_that_fold(chunks: list[Any]) -> None:
    answer = Answer(asking("x"), 1)
    events: list[Event] = []
    try:
        for chunk in chunks:
            events += answer.feed(json.dumps(chunk).encode())
        events += answer.end()
    except Fault:
        return
    assert collect(events).finished is events[-1]


def test_an_end_after_a_call_is_that_of_a_call() -> None:
    assert collect(heard(called(0, "look", "{}"), said("stop"))).finished.reason == "tool_calls"
    request = asking("hello", stop=("END",))
    stopped = said("stop")
    stopped["choices"][0]["stop_reason"] = "END"
    assert (
        collect(heard(called(0, "look", "{}"), stopped, request=request)).finished.reason == "stop_sequence"
    )


def with_logprob(text: str, *raw: int, finish: str | None = None) -> Any:
    entry = {"token": "?", "logprob": -1.0, "bytes": list(raw), "top_logprobs": []}
    chunk = said(finish, content=text)
    chunk["choices"][0]["logprobs"] = {"content": [entry]}
    return chunk


def test_tokens_that_complete_no_character_are_told_with_the_one_that_does() -> None:
    events = heard(with_logprob("", 0xE2), with_logprob("\N{EURO SIGN}", 0x82, 0xAC), said("stop"))
    [delta] = [event for event in events if isinstance(event, BlockDelta)]
    assert [entry.raw for entry in delta.logprobs] == [b"\xe2", b"\x82\xac"]
    assert collect(events).finished.usage.completion_tokens == 2


def test_what_is_left_of_them_at_the_end_is_told_without_text() -> None:
    events = heard(with_logprob("a", 97), with_logprob("", 0xE2), said("length"))
    deltas = [event for event in events if isinstance(event, BlockDelta)]
    assert [(delta.text, delta.logprobs[0].raw) for delta in deltas] == [("a", b"a"), ("", b"\xe2")]


@pytest.mark.parametrize("count", [0, 2**39])
def test_a_count_that_cannot_be_one_of_what_was_heard_is_not_taken(count: int) -> None:
    assert collect(heard(said(content="a"), said("stop"), counted(5, count))).finished.usage == Usage(5, 0, 1)


@pytest.mark.parametrize(
    "calls",
    [
        [called(0, "a", "{}", "c1"), called(0, "b", "[]", "c2")],
        [called(None, "a", "{}"), called(None, "b", "[]")],
        [called(None, "a", "{}", "c1"), called(None, "b", "[]", "c2")],
        [called(0, "a", "{", "c1"), called(0, "a", "}", "c1"), called(1, "b", "[]", "c2")],
        [called(0, "a", "{", "c1"), called(0, None, "}", ""), called(1, "b", "[]", "c2")],
        [called(0, "a", "{", "c1"), called(0, None, "}", "c9"), called(1, "b", "[]", "c2")],
    ],
)
def test_calls_are_told_apart_by_number_id_or_name(calls: list[Any]) -> None:
    found = collect(heard(*calls, said("tool_calls"))).calls
    assert [(call.name, call.text, call.is_whole) for call in found] == [("a", "{}", True), ("b", "[]", True)]
