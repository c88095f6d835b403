"""Calls written in a learned form: to prove it, for the history of models without one, for examples."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from corral.decoding.formats.form import CallForm, JsonBody, NamedBody, PairsBody, Pattern


@dataclass(frozen=True, slots=True)
class WrittenCall:
    """One call to write. `arguments` is a JSON object."""

    name: str
    arguments: dict[str, Any]
    call_id: str = ""


def encode_calls(form: CallForm, calls: Sequence[WrittenCall]) -> str:
    """The section that a model would write for these calls."""
    written: list[str] = []
    for index, one in enumerate(calls):
        begin = _filled(form.begin, one.call_id or str(index))
        written.append(begin + _body(form, one, index) + form.end)
    section = form.joiner.join(written)
    if form.is_list:
        section = f"[{section}]"
    return form.section_begin + section + form.section_end


def _body(form: CallForm, one: WrittenCall, index: int) -> str:
    body = form.bodies[0]
    if isinstance(body, JsonBody):
        return _json(body, one, index)
    name = one.name + _filled(body.after_name, one.call_id or str(index))
    if isinstance(body, NamedBody):
        return name + (_literal(one.arguments, body.quote) if body.quote else _dump(one.arguments))
    pairs = body.separator.join(_pair(body, key, value) for key, value in one.arguments.items())
    return name + pairs


def _json(body: JsonBody, one: WrittenCall, index: int) -> str:
    if body.name_key is None:
        return _dump({one.name: one.arguments})
    inner: dict[str, Any] = {body.name_key: one.name, body.arguments_key: one.arguments}
    whole = {body.within: inner} if body.within is not None else inner
    if body.id_key is not None:
        whole = {**whole, body.id_key: one.call_id or str(index)}
    return _dump(whole)


def _pair(body: PairsBody, key: str, value: Any) -> str:
    mark = body.string_mark if isinstance(value, str) and body.string_mark else _type_word(body, value)
    if body.values == "raw":
        text = value if isinstance(value, str) else _raw(body, value)
    elif body.quote:
        text = _literal(value, body.quote)
    else:
        text = _python(value) if body.values == "python" else _dump(value)
    return body.before_key + key + _filled(body.after_key, mark) + text + key.join(body.after_value)


def _type_word(body: PairsBody, value: Any) -> str:
    if body.string_mark == "true":
        return "false"
    if isinstance(value, bool):
        return "boolean"
    for kind, word in ((int, "number"), (float, "number"), (str, "string"), (list, "array"), (dict, "object")):
        if isinstance(value, kind):
            return word
    return "null"


def _raw(body: PairsBody, value: Any) -> str:
    if body.item is None or not isinstance(value, (dict, list)):
        return _dump(value)
    pairs = value.items() if isinstance(value, dict) else ((body.item, part) for part in value)
    return "".join(
        body.before_key
        + key
        + body.after_key[0]
        + (part if isinstance(part, str) else _raw(body, part))
        + key.join(body.after_value)
        for key, part in pairs
    )


def _literal(value: Any, quote: str) -> str:
    """An object without quotes around its keys, and strings in quotes of the format's own."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_literal(part, quote)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_literal(part, quote) for part in value) + "]"
    return quote + value + quote if isinstance(value, str) else _dump(value)


def _python(value: Any) -> str:
    if isinstance(value, str):
        return repr(value)
    if value is None or isinstance(value, bool):
        return str(value)
    return _dump(value)


def _filled(pattern: Pattern, word: str) -> str:
    return word.join(pattern)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
