"""Calls as a grammar: what the model may write is a call in its own format, and arguments by their schema.

    required(form, tools, ...)     ->  Lark, as llguidance reads it: calls, and nothing else
    beside_text(form, tools, ...)  ->  Lark: any text, but what begins a call goes on as one
    answered(form, schema, ...)    ->  Lark: a value of a schema or, with them, calls

The fixed parts are the format's own, letter by letter, with its control tokens as tokens; names are those of
the tools; arguments follow their schema, spaced as the template spaces them (free space lets a small model
write blanks without end). Where a literal has a hole, an id or a number stands in it.

Where a thought may come first the grammar has its opener only: the parser says when the thought is over, and
until then nothing is held to the grammar.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from corral.decoding.formats.form import (
    CallForm,
    Format,
    JsonBody,
    NamedBody,
    PairsBody,
    Pattern,
    split_controls,
)
from corral.decoding.formats.openers import Opener, openers
from corral.request import Grammar, Tool

_ID = "/[A-Za-z0-9_]{9}/"
_COUNT = "/[0-9]{1,3}/"
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
    they need not be said. With `thinks` the model may open a thought first.
    """
    builder = _Lark(controls, ends)
    calls = form.calls[0]
    thought = builder.thought(form) if thinks else ""
    if form.headers is not None:  # the prompt ends in a header, which the call goes on with
        many = many and bool(calls.joiner.strip())
        first = (calls.begin[0].removeprefix(form.headers.start), *calls.begin[1:])
        calls_here = replace(calls, begin=first)
    elif calls.begun and not thought:
        calls_here = replace(calls, begin=(calls.begin[0].removeprefix(calls.begun), *calls.begin[1:]))
    else:
        calls_here = calls
    section = builder.section(calls_here, calls, tools, many=many)
    return builder.source(f"{thought} {section}".strip())


def beside_text(
    form: Format, tools: Sequence[Tool], *, controls: Mapping[str, int], ends: frozenset[int]
) -> str | None:
    """Any text, in which what begins a call must go on as a call of these tools; None where that is not told.

    The arguments of tools that are not strict are held to no more than their form. As `required` otherwise.
    """
    found = openers(form)
    if not found:
        return None
    builder = _Lark(controls, ends, is_lenient=True)
    begun = [f"{builder.opened(opener)} {builder.behind(opener, tools)}" for opener in found]
    reserved = {piece for opener in found for piece in split_controls(opener.reserved, controls)}
    others = sorted(set(controls.values()) - ends - {controls[text] for text in reserved if text in controls})
    if others:
        begun.append(f"TEXT <[{_ranges(others)}]>")
    parts = builder.rule(" | ".join(begun))
    return builder.source(f"{parts}* TEXT\nTEXT: {_ANYTHING}")


def holds_beside_text(form: Format) -> bool:
    """Whether a call of this format is known by its beginning, so that it can be held to its schema."""
    return bool(openers(form))


def answered(
    form: Format,
    schema: str,
    *,
    controls: Mapping[str, int],
    ends: frozenset[int],
    thinks: bool,
    calls: str | None = None,
) -> str:
    """A JSON value of a schema behind what goes before it, or what the grammar `calls` allows, in Lark.

    As `required` otherwise.
    """
    builder = _Lark(controls, ends)
    header = "" if form.headers is None else builder.literal(form.headers.content + form.headers.body)
    answer = f"{header} {builder.json_rule(json.loads(schema))}".strip()
    start, rules = "answer", ""
    if calls is not None:
        head, _, rules = calls.partition("\n")
        start = f"(answer | {head.removeprefix('start: ')})"
    thought = builder.thought(form) if thinks else ""
    return f"start: {thought} {start}\nanswer: {answer}\n{rules}"


def can_hold(form: Format, tool: Tool) -> bool:
    """Whether the language of a tool's free text can be held to, in the way this format writes texts."""
    if tool.input is None or tool.input.kind == "regex":
        return True
    body = form.calls[0].bodies[0]
    return isinstance(body, PairsBody) and (body.values == "raw" or bool(body.quote))


def _can_repeat(form: CallForm) -> bool:
    """Whether another call can follow: one without any end cannot be told from it."""
    return bool(form.joiner.strip() or form.end or any(form.begin))


def _ranges(tokens: Sequence[int]) -> str:
    """Tokens in order, as `1-3,7`."""
    runs: list[list[int]] = []
    for token in tokens:
        if runs and runs[-1][1] == token - 1:
            runs[-1][1] = token
        else:
            runs.append([token, token])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


@dataclass(slots=True)
class _Lark:
    """Rules, collected. Where it `is_lenient`, tools that are not strict are held to their form only."""

    controls: Mapping[str, int]
    ends: frozenset[int]
    rules: list[str] = field(default_factory=list)
    is_lenient: bool = False

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

    def thought(self, form: Format) -> str:
        """What opens a thought, if the model likes to; with headers, also what goes on behind it."""
        headers = form.headers
        if headers is not None and headers.thought is not None:
            return f"({self.literal(headers.thought + headers.body)} {self.literal(headers.start)})?"
        if form.thought is None or not form.thought.opener.strip() or not form.thought.closer.strip():
            return ""
        return f'("\\n"? {self.literal(form.thought.opener.strip())})?'

    # Calls

    def section(self, first: CallForm, form: CallForm, tools: Sequence[Tool], *, many: bool) -> str:
        """All calls of an answer; the `first` may begin in a way of its own."""
        calls = self.one_of(first, tools, first.begin)
        if many and form.first_count is None and _can_repeat(form):  # numbers would have to count
            one = calls if first is form else self.one_of(form, tools, form.begin)
            calls += f" ({self.literal(form.joiner)} {one})*"
        begin = self.literal(form.section_begin + form.list_open)
        return " ".join(filter(None, (begin, calls, self.end(form.list_close + form.section_end))))

    def one_of(self, form: CallForm, tools: Sequence[Tool], begin: Pattern) -> str:
        return self.rule(" | ".join(self.rule(self.call(form, tool, begin)) for tool in tools))

    def call(self, form: CallForm, tool: Tool, begin: Pattern) -> str:
        """A call from `begin` on, which is all of the form's or what is missing of it."""
        word = json.dumps(tool.name, ensure_ascii=False) if form.names_twice else _ID
        if form.first_count is not None and not form.names_twice:
            word = _COUNT if self.is_lenient else json.dumps(str(form.first_count))
        has_end = bool(form.section_end or form.list_close or form.joiner.strip())
        written_end = form.end_of(tool.name, str(form.first_count))
        end = self.literal(written_end) if has_end else self.end(written_end)
        return " ".join(filter(None, (self.pattern(begin, word), self.body(form.bodies[0], tool, word), end)))

    # Calls in the middle of text

    def opened(self, opener: Opener) -> str:
        """Text up to and with what begins a call."""
        if opener.text in self.controls:
            return f"TEXT {self.literal(opener.text)}"
        space = r" /\s/" if opener.needs_space else ""
        return self.rule(f"TEXT {json.dumps(opener.text, ensure_ascii=False)}{space}", "[lazy]")

    def behind(self, opener: Opener, tools: Sequence[Tool]) -> str:
        """The rest of the calls that an opener has begun."""
        form = opener.form
        first = self.one_of(form, tools, opener.begin)
        if not (form.section_begin + form.list_open).strip() or opener.section is None:
            return " ".join(filter(None, (self.literal(opener.section or ""), first)))
        more = f" ({self.literal(form.joiner)} {first})*" if _can_repeat(form) else ""
        end = self.end(form.list_close + form.section_end)
        return " ".join(filter(None, (self.literal(opener.section), first + more, end)))

    def body(self, body: JsonBody | NamedBody | PairsBody, tool: Tool, word: str) -> str:
        schema = msgspec.json.decode(tool.parameters)
        if not isinstance(schema, dict):
            schema = {"type": "object"}
        if schema.get("type") != "object":
            schema = {**schema, "type": "object"}
        if tool.input is not None and tool.input.kind == "regex":
            pattern = {"type": "string", "pattern": f"^(?:{tool.input.source})$"}
            schema = {**schema, "properties": {"input": pattern}}
        is_loose = self.is_lenient and not tool.is_held
        if is_loose and not isinstance(body, PairsBody):
            schema = {"type": "object"}
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
                return self._pairs(body, tool, schema, word, is_loose=is_loose)

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

    def language(self, grammar: Grammar) -> str:
        """A text in a language of its own."""
        source = grammar.source
        if grammar.kind == "regex":
            source = f"start: /{_unslashed(source)}/"
        return self.rule(f"%lark {{\n{source}\n}}")

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

    def _pairs(
        self, body: PairsBody, tool: Tool, schema: dict[str, Any], word: str, *, is_loose: bool
    ) -> str:
        parts = [_quoted(tool.name), self.pattern(body.after_name, word)]
        properties = schema.get("properties")
        wanted = schema.get("required")
        properties = properties if isinstance(properties, dict) else {}
        if is_loose and properties:
            kinds = [self._pair(body, key, _kind(own)) for key, own in properties.items()]
            one = self.rule(" | ".join(kinds))
            parts.append(f"({one} ({self.literal(body.separator)} {one})*)?")
            return " ".join(filter(None, parts))
        is_first = True
        for key, own in properties.items():
            pair = self._pair(body, key, own if isinstance(own, dict) else {}, tool.input)
            is_required = isinstance(wanted, list) and key in wanted
            # Without a separator every pair stands by itself; with one, only what follows can be left out.
            if body.separator and not is_first:
                pair = f"{self.literal(body.separator)} {pair}"
            parts.append(pair if is_required or (body.separator and is_first) else f"({pair})?")
            is_first = False
        return " ".join(filter(None, parts))

    def _pair(
        self, body: PairsBody, key: str, schema: dict[str, Any], language: Grammar | None = None
    ) -> str:
        kind = schema.get("type")
        is_string = kind == "string"
        mark = body.string_mark if is_string else body.other_mark
        if not is_string and body.other_mark in ("number", "integer") and isinstance(kind, str):
            mark = body.other_mark if kind in ("number", "integer") else kind
        mark_word = _quoted(mark) if mark else '""'
        name = _quoted(key)
        begin = f"{self.pattern(body.before_key, mark_word)} {name} {self.pattern(body.after_key, mark_word)}"
        after = key.join(body.after_value)
        if language is not None and body.values == "raw":
            return f"{begin} {self.language(language)} {self.literal(after)}".strip()
        if body.values == "raw" and is_string and not isinstance(schema.get("enum"), list):
            return f"{begin} {self.until(after)}".strip()
        if body.values == "raw" and is_string:
            value = "(" + " | ".join(_quoted(str(option)) for option in schema["enum"]) + ")"
        elif body.quote and language is not None:
            value = f"{self.literal(body.quote)} {self.language(language)} {self.literal(body.quote)}"
        elif body.quote and is_string:
            value = f"{self.literal(body.quote)} {self.until(body.quote)}"
        elif body.values == "python" and not body.quote and kind == "boolean":
            value = '("True" | "False")'
        elif body.values == "python" and not body.quote and kind == "null":
            value = '"None"'
        elif body.values == "python" and is_string and language is None:
            value = f"({self.json(schema)} | {_PYTHON_STRING})"
        else:
            value = self.json(schema)
        return f"{begin} {value} {self.literal(after)}".strip()


def _kind(schema: Any) -> dict[str, Any]:
    """A schema that says of a value what kind it is, and no more."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    return {"type": kind} if isinstance(kind, str) else {}


def _unslashed(pattern: str) -> str:
    """A regular expression as it stands between slashes."""
    return re.sub(r"\\.|/", lambda match: "\\/" if match[0] == "/" else match[0], pattern, flags=re.DOTALL)


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _quoted(text: str) -> str:
    """A text as a literal of Lark."""
    return json.dumps(text, ensure_ascii=False)
