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
        mark = one.call_id if form.first_count is None else str(form.first_count + index)
        begin = _filled(form.begin, one.name if form.names_twice else mark)
        written.append(begin + _body(form, one, mark) + form.end_of(one.name, mark))
    section = form.list_open + form.joiner.join(written) + form.list_close
    return form.section_begin + section + form.section_end


def _body(form: CallForm, one: WrittenCall, mark: str) -> str:
    body = form.bodies[0]
    if isinstance(body, JsonBody):
        return _json(body, one, mark)
    name = one.name + _filled(body.after_name, mark)
    if isinstance(body, NamedBody):
        return name + _dump(one.arguments, body.separators)
    pairs = body.separator.join(_pair(body, key, value) for key, value in one.arguments.items())
    return name + pairs


def _json(body: JsonBody, one: WrittenCall, mark: str) -> str:
    if body.name_key is None:
        return _dump({one.name: one.arguments}, body.separators)
    arguments = _dump(one.arguments, body.separators) if body.is_text else one.arguments
    inner: dict[str, Any] = {body.name_key: one.name, body.arguments_key: arguments}
    whole = {body.within: inner} if body.within is not None else inner
    if body.id_key is not None:
        whole = {body.id_key: mark, **whole} if body.id_first else {**whole, body.id_key: mark}
    return _dump(whole, body.separators)


def _pair(body: PairsBody, key: str, value: Any) -> str:
    mark = _type_word(body, value)
    if body.values == "raw":
        text = value if isinstance(value, str) else _raw(body, value)
    elif body.quote:
        text = _literal(value, body.quote)
    else:
        text = _python(value) if body.values == "python" else _dump(value)
    begin = _filled(body.before_key, mark) + key + _filled(body.after_key, mark)
    return begin + text + key.join(body.after_value)


def _type_word(body: PairsBody, value: Any) -> str:
    """What a hole says of the value. Formats that name more than strings use JSON Schema's words."""
    if isinstance(value, str):
        return body.string_mark or ""
    if body.other_mark not in ("number", "integer"):
        return body.other_mark or ""
    if isinstance(value, bool):
        return "boolean"
    for kind, word in (((int, float), body.other_mark), (list, "array"), (dict, "object")):
        if isinstance(value, kind):
            return word
    return "null"


def _raw(body: PairsBody, value: Any) -> str:
    if body.item is None or not isinstance(value, (dict, list)):
        return _dump(value)
    pairs = value.items() if isinstance(value, dict) else ((body.item, part) for part in value)
    return "".join(
        "".join(body.before_key)
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


def _dump(value: Any, separators: tuple[str, str] = (", ", ": ")) -> str:
    return json.dumps(value, ensure_ascii=False, separators=separators)
