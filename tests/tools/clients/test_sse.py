from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tools.fakeserver import DONE, delta, usage

from tools.clients.sse import Answer, SseReader, Usage, read_whole

STREAM = b"".join(
    [delta(""), delta("Hel"), b": keep\n\n", delta("lo"), delta("", finish='"stop"'), usage(2), DONE]
)


def read(*pieces: bytes) -> Answer:
    answer = Answer(sent_s=10.0)
    reader = SseReader(answer)
    for i, piece in enumerate(pieces):
        reader.feed(piece, 11.0 + i)
    reader.finish()
    return answer


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_a_stream_reads_the_same_wherever_it_is_cut(cuts: list[int]) -> None:
    marks = [0, *sorted(cuts), len(STREAM)]
    answer = read(*(STREAM[a:b] for a, b in pairwise(marks)))
    assert answer.violations == []
    assert answer.text == "Hello"
    assert answer.finish_reason == "stop"
    assert answer.completion_tokens == 2
    assert answer.keepalives == 1
    assert len(answer.content_s) == 2


def test_times_are_those_of_the_bytes_that_completed_a_delta() -> None:
    first = delta("a")
    answer = read(first[:5], first[5:], delta("b") + delta("c") + DONE)
    assert answer.content_s == [12.0, 13.0, 13.0]
    assert answer.ttft_s == 2.0


@pytest.mark.parametrize(
    ("stream", "rule"),
    [
        (delta("a"), "without [DONE]"),
        (delta("a") + DONE + delta("b"), "after [DONE]"),
        (delta("a") + delta("b", chunk_id="c2") + DONE, "id changed from c1 to c2"),
        (b'data: {"id": "c1", "cho\n\n' + DONE, "no chunk"),
        (delta("a") + b"data: {", "inside an event"),
        (b"event: ping\n\n" + DONE, "without data"),
    ],
)
def test_broken_rules_are_named(stream: bytes, rule: str) -> None:
    assert any(rule in violation for violation in read(stream).violations)


def test_an_error_event_needs_no_done() -> None:
    answer = read(delta("a") + b'data: {"error":{"message":"engine failed"}}\n\n')
    assert "engine failed" in answer.error
    assert answer.violations == []


def test_an_empty_delta_is_a_keepalive() -> None:
    empty = b'data: {"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":null}]}\n\n'
    assert read(delta("a") + empty + empty + DONE).keepalives == 2


def test_data_over_two_lines_and_carriage_returns() -> None:
    answer = read(
        b'data: {"id":"c1",\r\ndata: "choices":[{"delta":{"content":"x"}}]}\r\n\r\ndata: [DONE]\r\n\r\n'
    )
    assert (answer.text, answer.violations) == ("x", [])


def test_a_whole_answer() -> None:
    answer = Answer()
    body = b'{"id":"c","choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}],'
    body += b'"usage":{"completion_tokens":1}}'
    read_whole(answer, body, 5.0)
    assert (answer.text, answer.finish_reason, answer.completion_tokens) == ("Hi", "stop", 1)


def test_cached_tokens_are_read_where_a_server_says_them() -> None:
    usage = msgspec.json.decode(
        b'{"prompt_tokens":10,"prompt_tokens_details":{"cached_tokens":4}}', type=Usage
    )
    assert (usage.cached_tokens, usage.prefilled_tokens) == (4, 6)
    usage = msgspec.json.decode(b'{"prompt_tokens":10,"prompt_tokens_details":null}', type=Usage)
    assert (usage.cached_tokens, usage.prefilled_tokens) == (0, 10)


def test_progress_is_news_and_is_kept() -> None:
    answer = Answer()
    reader = SseReader(answer)
    for at_s, progress in (
        (1.0, b'"queue_progress": {"position": 1, "eta_s": 4.5}'),
        (2.0, b'"queue_progress": {"position": 0, "eta_s": null}'),
        (3.0, b'"prompt_progress": {"total": 9, "cache": 0, "processed": 4, "time_ms": 1}'),
        (4.0, b'"prompt_progress": {"total": 9, "cache": 0, "processed": 9, "time_ms": 2}'),
    ):
        reader.feed(b'data: {"id": "a", "choices": [{"delta": {}}], ' + progress + b"}\n\n", at_s)
    assert answer.waits == [(1.0, 4.5), (2.0, None)]
    assert answer.served_s == 3.0
    assert answer.keepalives == 0
