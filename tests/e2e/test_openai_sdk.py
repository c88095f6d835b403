"""OpenAI's own package against the real server with the real model."""

import http.client
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from tests.e2e.processes import ENDLESS, MODEL, QUESTION, Server

pytestmark = pytest.mark.model

SDK = Callable[..., openai.OpenAI]


def test_an_answer(wide: Server, sdk: SDK) -> None:
    answer = sdk(wide.api).chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=12, temperature=0
    )
    [choice] = answer.choices
    assert (choice.message.role, choice.finish_reason) == ("assistant", "length")
    assert choice.message.content
    assert answer.model == MODEL
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


def test_a_stream(wide: Server, sdk: SDK) -> None:
    stream = sdk(wide.api).chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in [*chunks, last]}) == 1
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 12


def test_completions(wide: Server, sdk: SDK) -> None:
    client = sdk(wide.api)
    answer = client.completions.create(
        model=MODEL,
        prompt=["Once upon a time", "The river"],
        max_tokens=6,
        temperature=0,
        echo=True,
        logprobs=2,
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.tokens is not None
        assert "".join(choice.logprobs.tokens) == choice.text
    assert answer.choices[0].text.startswith("Once upon a time")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    stream = client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=6, temperature=0, echo=True, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text


def test_completions_without_v1_and_what_only_some_models_can(wide: Server, sdk: SDK) -> None:
    client = sdk(wide.api.removesuffix("/v1"))
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.BadRequestError, match="filling in the middle") as caught:
        client.completions.create(model=MODEL, prompt="a", suffix="b")
    assert caught.value.param == "suffix"


def test_where_a_request_is(wide: Server, sdk: SDK) -> None:
    stream = sdk(wide.api).chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": f"Read this: {'a word, ' * 300}"}],
        max_tokens=2,
        stream=True,
        extra_body={"return_progress": True},
    )
    extras = [chunk.model_extra or {} for chunk in stream]
    told = [extra["prompt_progress"] for extra in extras if "prompt_progress" in extra]
    assert told[-1]["processed"] == told[-1]["total"] > 300
    assert [step["processed"] for step in told] == sorted(step["processed"] for step in told)


def test_log_probabilities(wide: Server, sdk: SDK) -> None:
    answer = sdk(wide.api).chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=8, temperature=0, logprobs=True, top_logprobs=3
    )
    [choice] = answer.choices
    assert choice.logprobs is not None
    tokens = choice.logprobs.content
    assert tokens is not None
    assert len(tokens) == 8
    assert "".join(token.token for token in tokens) == choice.message.content
    for token in tokens:
        likely = [top.logprob for top in token.top_logprobs]
        assert len(likely) == 3
        assert likely == sorted(likely, reverse=True)
        assert token.logprob == likely[0] <= 0, "temperature 0 takes the likeliest"


def test_two_choices(wide: Server, sdk: SDK) -> None:
    ask = sdk(wide.api).chat.completions.create
    request: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "max_tokens": 8, "n": 2, "seed": 1}
    answer = ask(**request)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.message.content for choice in answer.choices)
    assert answer.usage.completion_tokens == 16
    texts = ["", ""]
    for chunk in ask(**request, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert all(texts)


def test_the_model_is_listed(wide: Server, sdk: SDK) -> None:
    client = sdk(wide.api)
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "corral"


def test_errors_are_the_exceptions_of_the_package(wide: Server, sdk: SDK) -> None:
    client = sdk(wide.api)
    ask = client.chat.completions.create
    with pytest.raises(openai.BadRequestError) as bad:
        ask(model=MODEL, messages=QUESTION, temperature=9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        ask(model=MODEL, messages=[{"role": "user", "content": "word " * 9000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")
    with pytest.raises(openai.NotFoundError):
        client.get("/nothing/here", cast_to=object)


def test_a_full_queue_is_a_rate_limit_error(narrow: Server, sdk: SDK) -> None:
    ask = sdk(narrow.api).chat.completions.create
    with (
        ask(model=MODEL, messages=QUESTION, **ENDLESS) as running,
        ask(model=MODEL, messages=QUESTION, **ENDLESS) as waiting,
    ):
        assert next(running).choices[0].delta.role == next(waiting).choices[0].delta.role == "assistant"
        with pytest.raises(openai.RateLimitError) as refused:
            ask(model=MODEL, messages=QUESTION)
        assert refused.value.code == "rate_limit_exceeded"
        assert int(refused.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("others", [0, 1])
def test_a_stream_that_is_left_half_read_frees_its_slot(narrow: Server, sdk: SDK, others: int) -> None:
    ask = sdk(narrow.api).chat.completions.create
    streams = [ask(model=MODEL, messages=QUESTION, **ENDLESS) for _ in range(1 + others)]
    read = 0
    for chunk in streams[0]:
        read += bool(chunk.choices[0].delta.content)
        if read == 3:
            break
    for stream in streams:
        stream.close()
    began = time.monotonic()
    answer = ask(model=MODEL, messages=QUESTION, max_tokens=1)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 1
    assert time.monotonic() - began < 3, "the slot was held by somebody gone"


def test_eight_streams_at_once_are_whole(wide: Server, sdk: SDK) -> None:
    client = sdk(wide.api)

    def read(number: int) -> str:
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"Count upwards from {number}."}],
            max_tokens=24,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        assert len({chunk.id for chunk in chunks}) == 1
        assert chunks[0].choices[0].delta.role == "assistant"
        choices = [choice for chunk in chunks for choice in chunk.choices]
        [reason] = [choice.finish_reason for choice in choices if choice.finish_reason]
        assert reason in ("stop", "length")
        assert chunks[-1].usage is not None
        assert (chunks[-1].usage.completion_tokens == 24) == (reason == "length")
        return "".join(choice.delta.content or "" for choice in choices)

    with ThreadPoolExecutor(8) as threads:
        texts = list(threads.map(read, range(100, 900, 100)))
    assert len(texts) == 8
    assert all(texts)


def test_the_frames_of_a_stream(wide: Server) -> None:
    body = {"model": MODEL, "messages": QUESTION, "max_tokens": 6, "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", wide.port, timeout=30)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Accel-Buffering"] == "no"
    *frames, end = response.read().decode().split("\n\n")
    connection.close()
    assert end == ""
    assert all(frame.startswith("data: ") for frame in frames)
    assert frames[-1] == "data: [DONE]"
    assert all(json.loads(frame[6:])["object"] == "chat.completion.chunk" for frame in frames[:-1])
