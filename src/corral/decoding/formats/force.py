"""Calls that must come, as a grammar: what the model may write is a call in its own format, and nothing else.

    required(form, tools, ...)  ->  Lark, as llguidance reads it

The fixed parts are the format's own, letter by letter, with its control tokens as tokens; names are those of
the tools; arguments follow their schema, spaced as the template spaces them (free space lets a small model
write blanks without end). Where a literal has a hole, an id or a number stands in it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from corral.decoding.formats.form import (
    CallForm,
    Format,
    JsonBody,
    NamedBody,
    PairsBody,
    Pattern,
    ThoughtForm,
    split_controls,
)
from corral.request import Tool

_ID = "/[A-Za-z0-9_]{9}/"
_PYTHON_STRING = r"/'(?:[^'\\\n]|\\.)*'/"
_ANYTHING = "/(?s:.*)/"


def required(
    form: Format,
    tools: Sequence[Tool],
    *,
    controls: Mapping[str, int],
    ends: frozenset[int],
    many: bool,
    thinks: bool = False,
) -> str:
    """One call of these tools or, with `many`, several, in Lark. Pure; a schema too deep is a RecursionError.

    `controls` are the model's control tokens by their text, `ends` those that end an answer: behind a call
    they need not be said. With `thinks` a thought may come first.
    """
    builder = _Lark(controls, ends)
    calls = form.calls[0]
    options = " | ".join(builder.rule(builder.call(calls, tool)) for tool in tools)
    one = builder.rule(options)
    more = f" ({builder.literal(calls.joiner)} {one})*" if many and _can_repeat(calls) else ""
    section = " ".join(
        filter(
            None,
            (
                builder.literal(calls.section_begin + calls.list_open),
                one + more,
                builder.end(calls.list_close + calls.section_end),
            ),
        )
    )
    thought = builder.thought(form.thought) if thinks and form.thought is not None else ""
    return builder.source(f"{thought} {section}".strip())


def either(schema: str, section: str) -> str:
    """A JSON value of a schema, or what the grammar `section` allows."""
    head, _, rules = section.partition("\n")
    answer = _Lark({}, frozenset()).json_rule(json.loads(schema))
    return f"start: answer | {head.removeprefix('start: ')}\nanswer: {answer}\n{rules}"


def _can_repeat(form: CallForm) -> bool:
    # Numbers that count calls would have to count; and a call without an end cannot be followed.
    return form.first_count is None and bool(form.joiner.strip() or form.end or any(form.begin))


@dataclass(slots=True)
class _Lark:
    """Rules, collected."""

    controls: Mapping[str, int]
    ends: frozenset[int]
    rules: list[str] = field(default_factory=list)

    def source(self, start: str) -> str:
        return "\n".join((f"start: {start}", *self.rules)) + "\n"

    def rule(self, body: str, attributes: str = "") -> str:
        """The name of a rule with this body."""
        name = f"r{len(self.rules)}"
        self.rules.append(f"{name}{attributes}: {body}")
        return name

    def literal(self, text: str) -> str:
        """A text as it is, its control tokens as tokens."""
        return " ".join(
            f"<[{self.controls[piece]}]>" if piece in self.controls else json.dumps(piece, ensure_ascii=False)
            for piece in split_controls(text, self.controls)
        )

    def end(self, text: str) -> str:
        """A literal at the end of an answer, without a token that ends it anyway."""
        pieces = split_controls(text, self.controls)
        while pieces and (not pieces[-1].strip() or self.controls.get(pieces[-1]) in self.ends):
            pieces.pop()
        return self.literal("".join(pieces))

    def pattern(self, pattern: Pattern, word: str) -> str:
        """A literal with what stands in its holes."""
        parts = [self.literal(pattern[0])]
        for piece in pattern[1:]:
            parts += [word, self.literal(piece)]
        return " ".join(filter(None, parts))

    def until(self, text: str, what: str = _ANYTHING) -> str:
        """Any text up to and with a literal."""
        if not text:
            return self.rule(what)
        first, *rest = split_controls(text, self.controls)
        if first in self.controls:
            return f"{self.rule(what)} {self.literal(text)}"
        found = self.rule(what, f"[suffix={json.dumps(first, ensure_ascii=False)}]")
        return f"{found} {self.literal(''.join(rest))}".strip()

    def thought(self, form: ThoughtForm) -> str:
        """A thought that may come first."""
        if not form.opener.strip() or not form.closer.strip():
            return ""
        return f"({self.literal(form.opener)} {self.until(form.closer)})?"

    # Calls

    def call(self, form: CallForm, tool: Tool) -> str:
        word = json.dumps(tool.name, ensure_ascii=False) if form.names_twice else _ID
        if form.first_count is not None and not form.names_twice:
            word = json.dumps(str(form.first_count))
        begin = self.pattern(form.begin, word)
        has_end = bool(form.section_end or form.list_close or form.joiner.strip())
        end = self.literal(form.end) if has_end else self.end(form.end)
        return " ".join(filter(None, (begin, self.body(form.bodies[0], tool, word), end)))

    def body(self, body: JsonBody | NamedBody | PairsBody, tool: Tool, word: str) -> str:
        schema = msgspec.json.decode(tool.parameters)
        if not isinstance(schema, dict):
            schema = {"type": "object"}
        if schema.get("type") != "object":
            schema = {**schema, "type": "object"}
        match body:
            case JsonBody():
                return self._json_call(body, tool.name, schema, word)
            case NamedBody():
                name = json.dumps(tool.name, ensure_ascii=False)
                return " ".join(
                    filter(
                        None, (name, self.pattern(body.after_name, word), self.json(schema, body.separators))
                    )
                )
            case PairsBody():
                return self._pairs(body, tool.name, schema, word)

    def json(self, schema: Any, separators: tuple[str, str] = (", ", ": ")) -> str:
        """A value of a schema, with just these separators."""
        return self.rule(self.json_rule(schema, separators))

    @staticmethod
    def json_rule(schema: Any, separators: tuple[str, str] = (", ", ": ")) -> str:
        """The body of a rule for such a value."""
        spaced = {
            "whitespace_flexible": False,
            "item_separator": separators[0],
            "key_separator": separators[1],
        }
        if isinstance(schema, bool):
            schema = {} if schema else {"not": {}}
        return f"%json {json.dumps({'x-guidance': spaced, **schema}, ensure_ascii=False)}"

    def _json_call(self, body: JsonBody, name: str, schema: Any, word: str) -> str:
        comma, colon = body.separators
        arguments = self.json({"type": "string"} if body.is_text else schema, body.separators)
        if body.name_key is None:
            return f"{_quoted('{' + _json(name) + colon)} {arguments} {_quoted('}')}"
        opening, closing = "{", "}"
        if body.within is not None:
            opening, closing = "{" + _json(body.within) + colon + "{", "}}"
        head = opening + _json(body.name_key) + colon + _json(name) + comma
        head += _json(body.arguments_key) + colon
        parts = [_quoted(head), arguments, _quoted(closing)]
        if body.id_key is not None:
            key = _json(body.id_key) + colon + '"'
            if body.id_first:
                parts = [
                    _quoted("{" + key),
                    word,
                    _quoted('"' + comma + head.removeprefix("{")),
                    *parts[1:],
                ]
            else:
                parts = [*parts[:-1], _quoted(closing[:-1] + comma + key), word, _quoted('"}')]
        return " ".join(parts)

    def _pairs(self, body: PairsBody, name: str, schema: dict[str, Any], word: str) -> str:
        parts = [_quoted(name), self.pattern(body.after_name, word)]
        properties = schema.get("properties")
        wanted = schema.get("required")
        is_first = True
        for key, own in properties.items() if isinstance(properties, dict) else ():
            is_required = isinstance(wanted, list) and key in wanted
            pair = self._pair(body, key, own if isinstance(own, dict) else {})
            # Without a separator every pair stands by itself; with one, only what follows can be left out.
            if body.separator and not is_first:
                pair = f"{self.literal(body.separator)} {pair}"
            parts.append(pair if is_required or (body.separator and is_first) else f"({pair})?")
            is_first = False
        return " ".join(filter(None, parts))

    def _pair(self, body: PairsBody, key: str, schema: dict[str, Any]) -> str:
        kind = schema.get("type")
        is_string = kind == "string"
        mark = body.string_mark if is_string else body.other_mark
        if not is_string and body.other_mark in ("number", "integer") and isinstance(kind, str):
            mark = body.other_mark if kind in ("number", "integer") else kind
        mark_word = _quoted(mark) if mark else '""'
        name = _quoted(key)
        begin = f"{self.pattern(body.before_key, mark_word)} {name} {self.pattern(body.after_key, mark_word)}"
        after = key.join(body.after_value)
        if body.values == "raw" and is_string and not isinstance(schema.get("enum"), list):
            return f"{begin} {self.until(after)}".strip()
        if body.values == "raw" and is_string:
            value = "(" + " | ".join(_quoted(str(option)) for option in schema["enum"]) + ")"
        elif body.quote and is_string:
            value = f"{self.literal(body.quote)} {self.until(body.quote)}"
        elif body.values == "python" and not body.quote and kind == "boolean":
            value = '("True" | "False")'
        elif body.values == "python" and not body.quote and kind == "null":
            value = '"None"'
        elif body.values == "python" and is_string:
            value = f"({self.json(schema)} | {_PYTHON_STRING})"
        else:
            value = self.json(schema)
        return f"{begin} {value} {self.literal(after)}".strip()


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _quoted(text: str) -> str:
    """A text as a literal of Lark."""
    return json.dumps(text, ensure_ascii=False)
