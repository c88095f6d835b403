"""Completions answers, and the table of what a request may have."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from corral.dialects import Head
from corral.dialects.fields import Harmless, Honoured, Refused
from corral.dialects.openai.completion_fields import COMPLETION_FIELDS, COMPLETION_REFUSED
from corral.dialects.openai.completion_request import CompletionBody
from corral.dialects.openai.completions import CompletionCall, CompletionsDialect
from corral.dialects.openai.fields import as_markdown
from corral.errors import EngineFailed, InvalidRequest
from corral.events import Block, BlockDelta, Completion, Finished, TokenLogprob, Usage

DOCS = Path(__file__).parents[3] / "docs" / "api.md"
TABLE = re.compile(r"(?<=<!-- completion fields -->\n\n).*?(?=\n<!-- /completion fields -->)", re.DOTALL)
HEAD = Head("cmpl-1", 1700000000, "smol", prompt_tokens=9)
NEEDED: dict[str, dict[str, Any]] = {
    "stream_options": {"stream": True},
    "dry_base": {"dry_multiplier": 1},
    "dry_allowed_length": {"dry_multiplier": 1},
    "dry_penalty_last_n": {"dry_multiplier": 1},
    "dry_sequence_breakers": {"dry_multiplier": 1},
    "mirostat_tau": {"mirostat": 1},
    "mirostat_eta": {"mirostat": 1},
}
"""What a field has no effect without."""

HONOURED = [field for field in COMPLETION_FIELDS if isinstance(field, Honoured) and field.name != "prompt"]
HARMLESS = [field for field in COMPLETION_FIELDS if isinstance(field, Harmless)]


def call_of(**fields: Any) -> CompletionCall:
    return CompletionsDialect("corral-test").parse(json.dumps({"prompt": "hi", **fields}).encode(), {}, "")


def completion(*tokens: tuple[bytes, float], stop: str | None = None) -> Completion:
    text = b"".join(raw for raw, _ in tokens).decode(errors="replace")
    logprobs = tuple(
        TokenLogprob(raw, logprob, (TokenLogprob(raw, logprob), TokenLogprob(b"\xff", -50.0)))
        for raw, logprob in tokens
    )
    end = Finished("stop", stop, Usage(9, 4, len(tokens)))
    return Completion((Block("text", text, logprobs),), end)


def choices(call: CompletionCall, *completions: Completion, echoed: tuple[str, ...] = ("",)) -> list[Any]:
    told: list[Any] = json.loads(call.complete(HEAD, echoed, completions))["choices"]
    return told


def test_of_the_best_those_come_that_are_likeliest_per_token() -> None:
    long_and_likely = completion((b"a", -0.5), (b"b", -0.5), (b"c", -0.5))
    short_and_not = completion((b"x", -1.0))
    middling = completion((b"m", -0.7))
    told = choices(call_of(n=2, best_of=3), short_and_not, middling, long_and_likely)
    assert [(choice["index"], choice["text"]) for choice in told] == [(0, "abc"), (1, "m")]


def test_logprobs_begin_where_their_token_does_and_half_a_character_is_told_in_bytes() -> None:
    answer = completion((b"a\xc3", -1.0), (b"\xa9", -2.0), (b"z", float("-inf")))
    [choice] = choices(call_of(logprobs=1), answer)
    assert choice["text"] == "aéz"
    assert choice["logprobs"]["tokens"] == ["bytes:\\x61\\xc3", "bytes:\\xa9", "z"]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2]
    assert choice["logprobs"]["token_logprobs"] == [-1.0, -2.0, -9999.0]
    assert choice["logprobs"]["top_logprobs"][2] == {"z": -9999.0, "bytes:\\xff": -50.0}


def test_the_stop_string_that_ended_it_is_told() -> None:
    [choice] = choices(call_of(), completion((b"a", -1.0), stop="x"))
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "x")


def test_a_stream_that_fails_says_so_and_is_not_done() -> None:
    stream = call_of(stream=True).stream(HEAD, ["hi"])
    body = stream.start() + stream.encode(0, BlockDelta(0, "a")) + stream.fail(EngineFailed("broken"))
    assert b"[DONE]" not in body
    last = json.loads(body.decode().split("\n\n")[-2].removeprefix("data: "))
    assert last["error"]["code"] == "engine_failed"


def test_a_keepalive_is_a_chunk_of_a_choice_that_goes_on() -> None:
    stream = call_of(stream=True, n=2).stream(HEAD, [""])
    stream.encode(0, completion((b"a", -1.0)).finished)
    chunk = json.loads(stream.keepalive().removeprefix(b"data: "))
    assert [(choice["index"], choice["text"]) for choice in chunk["choices"]] == [(1, "")]
    stream.encode(1, completion((b"a", -1.0)).finished)
    assert json.loads(stream.keepalive().removeprefix(b"data: "))["choices"] == []


# The table


@pytest.mark.parametrize("field", HONOURED, ids=lambda field: field.name)
def test_a_field_that_is_honoured_changes_what_is_done(field: Honoured) -> None:
    needed = NEEDED.get(field.name, {})
    assert call_of(**needed, **{field.name: field.example}) != call_of(**needed)
    assert call_of(**needed, **{field.name: None}) == call_of(**needed)


@pytest.mark.parametrize("field", HARMLESS, ids=lambda field: field.name)
def test_a_field_that_is_harmless_changes_nothing(field: Harmless) -> None:
    assert call_of(**{field.name: field.example}) == call_of()


@pytest.mark.parametrize("field", COMPLETION_REFUSED.values(), ids=lambda field: field.name)
def test_a_field_that_is_refused_is_named_unless_it_makes_no_difference(field: Refused) -> None:
    with pytest.raises(InvalidRequest) as caught:
        call_of(**{field.name: field.example})
    assert caught.value.param == field.name
    assert caught.value.message == f"'{field.name}' is not supported by this server."
    for value in (None, *field.unless):
        assert call_of(**{field.name: value}) == call_of()


def test_every_field_is_in_the_table_once() -> None:
    names = [field.name for field in COMPLETION_FIELDS]
    assert len(names) == len(set(names))
    assert set(CompletionBody.__struct_fields__) == {
        field.name for field in COMPLETION_FIELDS if not isinstance(field, Harmless)
    }


def test_the_documentation_shows_the_table() -> None:
    text = DOCS.read_text()
    table = as_markdown(COMPLETION_FIELDS)
    if os.environ.get("CORRAL_UPDATE_GOLDEN"):
        DOCS.write_text(TABLE.sub(lambda _: table, text))
        text = DOCS.read_text()
    assert TABLE.search(text)[0] == table  # type: ignore[index]
