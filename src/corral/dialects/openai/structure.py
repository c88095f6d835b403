"""What an answer shall look like, as chat requests and completions say it.

Sources: OpenAI's API reference for `response_format`; `grammar` and `json_schema` as in llama-server;
`guided_*` and `structured_outputs` as in vLLM; `regex` and `ebnf` as in SGLang.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec

from corral.dialects.openai.sampling import SamplingFields
from corral.dialects.wire import NOTHING, present
from corral.errors import InvalidRequest
from corral.request import Grammar, GrammarKind


class _Schema(msgspec.Struct):
    name: str = ""
    description: str | None = None
    schema: msgspec.Raw = NOTHING
    strict: bool | None = None


class _Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema", "grammar"]
    json_schema: _Schema | None = None
    schema: msgspec.Raw = NOTHING
    grammar: str | None = None


class _Structured(msgspec.Struct):
    json: msgspec.Raw = NOTHING
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class GrammarFields(SamplingFields):
    """Fields about what an answer shall look like, and about sampling; null means absent."""

    response_format: _Format | None = None
    grammar: str | None = None
    json_schema: msgspec.Raw = NOTHING
    guided_json: msgspec.Raw = NOTHING
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: _Structured | None = None
    regex: str | None = None
    ebnf: str | None = None


def grammar_of(wire: GrammarFields) -> Grammar | None:
    """What the answer must look like; raises InvalidRequest for two wishes at once."""
    found = list(_grammars(wire))
    if len(found) > 1:
        first, other = found[:2]
        raise InvalidRequest(f"'{other.param}' cannot go with '{first.param}'.", param=other.param)
    return found[0] if found else None


def _grammars(wire: GrammarFields) -> Iterator[Grammar]:
    if wire.response_format is not None:
        yield from _of_format(wire.response_format)
    if wire.structured_outputs is not None:
        yield from _of_structured(wire.structured_outputs)
    for param in ("json_schema", "guided_json"):
        if (schema := present(getattr(wire, param))) is not None:
            yield Grammar("json_schema", _schema(schema, param), param)
    kinds: tuple[tuple[str, GrammarKind], ...] = (
        ("guided_regex", "regex"),
        ("regex", "regex"),
        ("grammar", "gbnf"),
        ("guided_grammar", "lark"),
        ("ebnf", "gbnf"),
    )
    for param, kind in kinds:
        if source := getattr(wire, param):
            yield Grammar(_kind(kind, source), source, param)
    if wire.guided_choice is not None:
        yield _choice(wire.guided_choice, "guided_choice")


def _of_format(form: _Format) -> Iterator[Grammar]:
    match form.type:
        case "json_object":
            schema = present(form.schema)  # llama-server's
            if schema is None:
                yield Grammar("json_object", "", "response_format")
            else:
                yield Grammar(
                    "json_schema", _schema(schema, "response_format.schema"), "response_format.schema"
                )
        case "json_schema":
            param = "response_format.json_schema.schema"
            schema = (
                present(form.json_schema.schema) if form.json_schema is not None else present(form.schema)
            )
            if schema is None:
                raise InvalidRequest(f"Missing required parameter: '{param}'.", param=param)
            yield Grammar("json_schema", _schema(schema, param), param)
        case "grammar":
            param = "response_format.grammar"
            if not form.grammar:
                raise InvalidRequest(f"Missing required parameter: '{param}'.", param=param)
            yield Grammar(_kind("lark", form.grammar), form.grammar, param)
        case "text":
            return


def _of_structured(wanted: _Structured) -> Iterator[Grammar]:
    where = "structured_outputs"
    if (schema := present(wanted.json)) is not None:
        yield Grammar("json_schema", _schema(schema, f"{where}.json"), f"{where}.json")
    if wanted.regex:
        yield Grammar("regex", wanted.regex, f"{where}.regex")
    if wanted.choice is not None:
        yield _choice(wanted.choice, f"{where}.choice")
    if wanted.grammar:
        yield Grammar(_kind("lark", wanted.grammar), wanted.grammar, f"{where}.grammar")
    if wanted.json_object:
        yield Grammar("json_object", "", f"{where}.json_object")


def _choice(words: list[str], param: str) -> Grammar:
    if not words or not all(words):
        raise InvalidRequest(f"'{param}' must have strings to choose from, none of them empty.", param=param)
    return Grammar("choice", msgspec.json.encode(words).decode(), param)


def _kind(kind: GrammarKind, source: str) -> GrammarKind:
    """Lark or GBNF, which some servers take by one name: `::=` is in every GBNF, and in no Lark."""
    return ("gbnf" if "::=" in source else "lark") if kind in ("lark", "gbnf") else kind


def _schema(schema: bytes, param: str) -> str:
    """A JSON schema, which some clients send as a text."""
    if schema.startswith(b'"'):
        schema = msgspec.json.decode(schema, type=str).encode()
    if schema.strip()[:1] not in (b"{", b"t", b"f"):
        raise InvalidRequest(f"'{param}' must be a JSON schema.", param=param)
    return schema.decode()
