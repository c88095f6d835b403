"""`POST /v1/embeddings`: what is read of a request, and what an answer looks like."""

import base64
import json
import tracemalloc
from array import array
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse

from corral.dialects import Head
from corral.dialects.openai.embeddings import EmbeddingsCall, EmbeddingsDialect
from corral.errors import ContextExceeded, InvalidRequest
from corral.events import Completion, Finished, Usage
from corral.request import RawPrompt

HEAD = Head("embd-1", 1, "a-model", prompt_tokens=7)
VECTORS = ([0.6, -0.8], [1.0, 0.0], [0.1, 0.7])


def parse(**fields: Any) -> EmbeddingsCall:
    return EmbeddingsDialect().parse(json.dumps(fields).encode(), {}, "me")


def inputs(given: Any) -> tuple[RawPrompt, ...]:
    embed = parse(input=given).request.embed
    assert embed is not None
    return embed.inputs


def completion() -> Completion:
    vectors = tuple(array("f", vector).tobytes() for vector in VECTORS)
    return Completion((), Finished("stop", None, Usage(7, 0, 0)), vectors=vectors)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("abc", [RawPrompt("abc")]),
        (["a", "b"], [RawPrompt("a"), RawPrompt("b")]),
        ([1, 2], [RawPrompt(tokens=(1, 2))]),
        ([[1, 2], [3]], [RawPrompt(tokens=(1, 2)), RawPrompt(tokens=(3,))]),
        (["a", [3]], [RawPrompt("a"), RawPrompt(tokens=(3,))]),
    ],
)
def test_an_input_is_a_text_or_tokens_one_or_several(given: Any, expected: list[RawPrompt]) -> None:
    assert inputs(given) == tuple(expected)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": [1, "a"]}, "input"),
        ({"input": [-1]}, "input[0]"),
        ({"input": {"a": 1}}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 1.5}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ],
)
def test_what_is_no_request_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    assert caught.value.param == param


def test_two_thousand_and_forty_eight_inputs_are_taken_and_as_many_tokens_as_one_likes() -> None:
    assert len(inputs(["a"] * 2048)) == 2048
    [prompt] = inputs([5] * 5000)
    assert prompt.tokens == (5,) * 5000


@pytest.mark.parametrize(
    ("item", "count", "error"),
    [
        ("[1]", 200_000, InvalidRequest),
        ('""', 200_000, InvalidRequest),
        ("1", 400_000, ContextExceeded),
        ("[1]", 2048, None),
        ("1", 300_000, None),
    ],
)
def test_too_many_inputs_are_refused_before_any_is_built(
    item: str, count: int, error: type[InvalidRequest] | None
) -> None:
    many = ",".join([item] * count)
    body = f'{{"input":[{many}],"input":[{many}]}}'.encode()
    if error is None:
        EmbeddingsDialect().parse(body, {}, "me")
        return
    tracemalloc.start()
    try:
        with pytest.raises(error) as caught:
            EmbeddingsDialect().parse(body, {}, "me")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.param == "input"
    assert peak < 3 * len(body), "it is copied, and nothing more"


def test_lists_of_tokens_are_bounded_together() -> None:
    assert len(inputs([[1] * 1000] * 300)) == 300
    with pytest.raises(ContextExceeded) as caught:
        inputs([[1] * 1000] * 301)
    assert (caught.value.limit_tokens, caught.value.param) == (300_000, "input")


@given(st.lists(st.text('",[]\\a\n é', min_size=1), min_size=1, max_size=20), st.booleans())
def test_no_text_is_taken_for_many_inputs_whatever_is_in_it(texts: list[str], is_ascii: bool) -> None:
    texts = [*texts, texts[0] * 2000, ',["' * 150_000, "\\" * 5000]
    body = json.dumps({"input": texts}, ensure_ascii=is_ascii).encode()
    embed = EmbeddingsDialect().parse(body, {}, "me").request.embed
    assert embed is not None
    assert [prompt.text for prompt in embed.inputs] == texts


@pytest.mark.parametrize("encoding_format", [None, "float", "base64"])
def test_an_answer_is_what_openai_s_own_types_read(encoding_format: str | None) -> None:
    call = parse(input=["a", "b", "c"], encoding_format=encoding_format)
    answer = json.loads(b"".join(call.complete(HEAD, completion())))
    assert answer["object"] == "list"
    assert answer["model"] == "a-model"
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    for index, (item, vector) in enumerate(zip(answer["data"], VECTORS, strict=True)):
        assert (item["object"], item["index"]) == ("embedding", index)
        if encoding_format == "base64":
            read = array("f", base64.b64decode(item["embedding"]))
        else:
            read = array("f", item["embedding"])
        assert read == array("f", vector), "the same 32 bits"
    if encoding_format != "base64":
        CreateEmbeddingResponse.model_validate(answer, strict=True)


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_a_large_answer_is_written_vector_by_vector(encoding_format: str) -> None:
    whole = completion()
    many = replace(whole, vectors=whole.vectors * 100)
    pieces = list(parse(input="a", encoding_format=encoding_format).complete(HEAD, many))
    assert max(map(len, pieces)) < 200
    assert len(json.loads(b"".join(pieces))["data"]) == 300
