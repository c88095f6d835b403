"""Chat Completions answers: reviewed transcripts, and what OpenAI's own client makes of them."""

import importlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from corral.decoding import TextDecoder
from corral.dialects import Call, Dialect, Head, StreamEncoder
from corral.dialects.openai.chat import ChatDialect
from corral.errors import EngineFailed, ShutDown
from corral.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Failed,
    Finished,
    FinishReason,
    Prefill,
    Queued,
    Started,
    TokenLogprob,
    Usage,
    collect,
)

DIALECT: Dialect = ChatDialect(fingerprint="corral-test")
HEAD = Head("chatcmpl-1", 1700000000, "smol", prompt_tokens=9)
MESSAGES = [{"role": "user", "content": "hi"}]


def call_of(**fields: Any) -> Call:
    return DIALECT.parse(json.dumps({"messages": MESSAGES, **fields}).encode(), {}, "me")


def stream_of(call: Call) -> StreamEncoder:
    return call.stream(HEAD)


def finished(
    reason: FinishReason, stop: str | None = None, *, cached: int = 0, completion: int = 2
) -> Finished:
    return Finished(reason, stop, Usage(9, cached, completion))


def answer(*texts: str, end: Finished) -> list[Event]:
    deltas = [BlockDelta(0, text) for text in texts]
    return [Queued(0), Prefill(9, 9), Started(9, 0), BlockOpened(0, "text"), *deltas, BlockClosed(0), end]


def say(stream: StreamEncoder, choices: list[list[Event]]) -> Iterator[bytes]:
    """All frames of a successful stream, the choices' events interleaved as from one batch."""
    yield stream.start()
    for step in range(max(len(events) for events in choices)):
        for choice, events in enumerate(choices):
            if step < len(events):
                yield stream.encode(choice, events[step])
    yield stream.end()


LOGPROBS = (
    TokenLogprob(b" the", -0.5, (TokenLogprob(b" the", -0.5), TokenLogprob(b"\xf0\x9f", -1.25))),
    TokenLogprob(b"\xa6\x99", float("-inf")),
)


# Transcripts


def test_stream_of_two_choices_with_usage(golden: Callable[[str, bytes], None]) -> None:
    call = call_of(stream=True, n=2, stream_options={"include_usage": True})
    first = answer("Hel", "lo", end=finished("stop"))
    second = answer("Hi", end=finished("stop_sequence", "\n", cached=8, completion=3))
    golden("two-choices.sse", b"".join(say(stream_of(call), [first, second])))


def test_stream_with_logprobs_cut_by_length(golden: Callable[[str, bytes], None]) -> None:
    call = call_of(stream=True, logprobs=True, top_logprobs=2)
    events: list[Event] = [BlockOpened(0, "text"), BlockDelta(0, " the🦙", LOGPROBS), finished("length")]
    golden("logprobs.sse", b"".join(say(stream_of(call), [events])))


def test_stream_that_fails(golden: Callable[[str, bytes], None]) -> None:
    stream = stream_of(call_of(stream=True))
    error = EngineFailed("llama.cpp failed.")
    frames = [stream.start(), stream.keepalive(), stream.encode(0, BlockOpened(0, "text"))]
    frames += [stream.encode(0, BlockDelta(0, "Hel"))]
    frames += [stream.encode(0, Failed(error)), stream.fail(error)]
    golden("failed.sse", b"".join(frames))


def test_answer_of_two_choices(golden: Callable[[str, bytes], None]) -> None:
    choices: list[list[Event]] = [
        answer("Hel", "lo", end=finished("stop")),
        [finished("stop_sequence", "\n", cached=8, completion=1)],
    ]
    body = call_of(n=2).complete(HEAD, [collect(events) for events in choices])
    golden("two-choices.json", msgspec.json.format(body, indent=2) + b"\n")


def test_answer_with_logprobs(golden: Callable[[str, bytes], None]) -> None:
    events: list[Event] = [BlockOpened(0, "text"), BlockDelta(0, " the🦙", LOGPROBS), finished("length")]
    body = call_of(logprobs=True, top_logprobs=2).complete(HEAD, [collect(events)])
    golden("logprobs.json", msgspec.json.format(body, indent=2) + b"\n")


# Rules that a transcript shows only by chance


def test_events_before_and_around_text_show_nothing() -> None:
    stream = stream_of(call_of(stream=True))
    silent: list[Event] = [Queued(3), Prefill(1, 9), Started(9, 0), BlockOpened(0, "text"), BlockClosed(0)]
    assert [stream.encode(0, event) for event in silent] == [b""] * len(silent)


def test_keepalive_is_for_a_choice_that_goes_on() -> None:
    stream = stream_of(call_of(stream=True, n=2))

    def choices_of_keepalive() -> list[int]:
        chunk = json.loads(stream.keepalive().removeprefix(b"data: "))
        assert all((choice["delta"], choice["finish_reason"]) == ({}, None) for choice in chunk["choices"])
        return [choice["index"] for choice in chunk["choices"]]

    assert choices_of_keepalive() == [0]
    stream.encode(0, finished("stop"))
    assert choices_of_keepalive() == [1]
    stream.encode(1, finished("stop"))
    assert choices_of_keepalive() == []


def test_usage_counts_the_prompt_once_and_as_cached_as_it_was_at_first() -> None:
    ends = [finished("stop", cached=8, completion=3), finished("length", cached=2, completion=4)]
    body = call_of(n=2).complete(HEAD, [collect([end]) for end in ends])
    assert json.loads(body)["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 7,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_the_server_names_itself_in_the_fingerprint() -> None:
    stream = ChatDialect().parse(b'{"messages":[{"role":"user","content":"hi"}]}', {}).stream(HEAD)
    assert b'"system_fingerprint":"corral-' in stream.start()


# What OpenAI's client makes of it


def client_of(body: bytes, content_type: str) -> openai.OpenAI:
    """OpenAI's client, connected to a server that answers with `body`."""
    # httpx or httpx2, whichever this release of the client is built on.
    http = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])
    transport = http.MockTransport(
        lambda _: http.Response(200, content=body, headers={"content-type": content_type})
    )
    return openai.OpenAI(
        api_key="x", base_url="http://corral/v1", max_retries=0, http_client=http.Client(transport=transport)
    )


def read_stream(body: bytes) -> Iterator[ChatCompletionChunk]:
    with client_of(body, "text/event-stream") as client:
        for chunk in client.chat.completions.create(model="m", messages=[], stream=True):
            yield ChatCompletionChunk.model_validate(chunk.model_dump(), strict=True)


def read_answer(body: bytes) -> ChatCompletion:
    with client_of(body, "application/json") as client:
        answer = client.chat.completions.create(model="m", messages=[])
        return ChatCompletion.model_validate(answer.model_dump(), strict=True)


def test_a_failed_stream_raises_in_the_client() -> None:
    stream = stream_of(call_of(stream=True))
    chunks = read_stream(stream.start() + stream.fail(ShutDown("The server shut down.")))
    assert next(chunks).choices[0].delta.role == "assistant"
    with pytest.raises(openai.APIError, match="The server shut down") as caught:
        next(chunks)
    assert caught.value.code == "server_shutdown"


@st.composite
def generations(draw: st.DrawFn) -> list[Event]:
    """What the engine would send of tokens that are any bytes, with or without a stop string."""
    stop = draw(st.sampled_from([(), ("b",), ("ab", "é")]))
    decoder = TextDecoder(stop)
    events: list[Event] = [Started(9, 0)]
    pieces = draw(
        st.lists(st.sampled_from([b"a", b"ab", " \u2028\n".encode(), b"\xc3", b"\xa9", b"\xff", b'"']))
    )
    for piece in pieces:
        events += decoder.feed(piece, TokenLogprob(piece, -0.5, (TokenLogprob(b"\xc3", -2.0),)))
    events += decoder.finish()
    reason: FinishReason = "stop_sequence" if decoder.stopped else draw(st.sampled_from(["stop", "length"]))
    usage = Usage(9, draw(st.integers(0, 9)), len(pieces))
    return [*events, Finished(reason, decoder.stopped, usage)]


@given(st.lists(generations(), min_size=1, max_size=3), st.booleans())
def test_a_stream_folded_by_the_client_equals_the_answer(
    choices: list[list[Event]], keepalives: bool
) -> None:
    fields = {"n": len(choices), "logprobs": True, "top_logprobs": 1}
    whole = read_answer(call_of(**fields).complete(HEAD, [collect(events) for events in choices]))
    stream = stream_of(call_of(**fields, stream=True, stream_options={"include_usage": True}))
    frames = [frame + (stream.keepalive() if keepalives else b"") for frame in say(stream, choices)][:-1]

    state = ChatCompletionStreamState()
    stop_reasons: dict[int, object] = {}
    for chunk in read_stream(b"".join(frames) + stream.end()):
        state.handle_chunk(chunk)
        for choice in chunk.choices:
            assert choice.index not in stop_reasons, "a chunk came after the last of its choice"
            if choice.finish_reason:
                stop_reasons[choice.index] = (choice.model_extra or {})["stop_reason"]
    folded = state.current_completion_snapshot  # the final one is refused where it was cut by length

    assert (folded.id, folded.created, folded.model) == (whole.id, whole.created, whole.model)
    assert folded.system_fingerprint == whole.system_fingerprint
    assert folded.usage == whole.usage
    for streamed, complete in zip(folded.choices, whole.choices, strict=True):
        assert streamed.finish_reason == complete.finish_reason
        assert stop_reasons[streamed.index] == (complete.model_extra or {})["stop_reason"]
        assert streamed.message.role == complete.message.role
        assert streamed.message.content == complete.message.content
        assert complete.logprobs is not None
        assert (streamed.logprobs.content if streamed.logprobs else []) == complete.logprobs.content
