"""Objects and lists that are written as nested tags instead of JSON."""

import json
import re
from typing import Any

from corral.decoding.formats.form import PairsBody
from corral.decoding.values import Parameters, argument_json

_MAX_DEPTH = 32
_KEY = r"([^\s<>]{1,256}?)"


def tagged_json(text: str, body: PairsBody, parameters: Parameters, schema: Any) -> str:
    """The JSON of a value whose parts are in tags like those of the arguments; else of its plain text."""
    close = [*map(re.escape, (piece.strip() for piece in body.after_value)), ""]
    opening = re.escape(body.before_key[-1].strip()) + _KEY + re.escape(body.after_key[0].strip())
    closing = close[0] + _KEY + close[1]
    return _value(text, re.compile(f"(?:{closing})|(?:{opening})"), body.item, parameters, schema, 0)


def _value(
    text: str, tags: re.Pattern[str], item: str | None, parameters: Parameters, schema: Any, depth: int
) -> str:
    types = parameters.types_of(schema)
    children = _children(text, tags) if depth < _MAX_DEPTH else None
    if not children:
        if not text.strip():
            for kind, empty in (("object", "{}"), ("array", "[]")):
                if kind in types and "string" not in types:
                    return empty
            return "null" if not types and depth else argument_json(text, types)
        return argument_json(text, types)
    resolved = parameters.resolved(schema)
    if all(key == item for key, _ in children):
        inner = resolved.get("items")
        values = [_value(part, tags, item, parameters, inner, depth + 1) for _, part in children]
        return f"[{', '.join(values)}]"
    properties = resolved.get("properties")
    known = properties if isinstance(properties, dict) else {}
    pairs = [
        f"{json.dumps(key, ensure_ascii=False)}: "
        + _value(part, tags, item, parameters, known.get(key), depth + 1)
        for key, part in children
    ]
    return f"{{{', '.join(pairs)}}}"


def _children(text: str, tags: re.Pattern[str]) -> list[tuple[str, str]] | None:
    """The tags at the top of the text with what is in them; None where it is not all in tags."""
    children: list[tuple[str, str]] = []
    stack: list[str] = []
    begin = at = 0
    for match in tags.finditer(text):
        closed, opened = match.groups()
        if opened is not None:
            if not stack:
                if text[at : match.start()].strip():
                    return None
                begin = match.end()
            stack.append(opened)
        elif not stack or stack.pop() != closed:
            return None
        elif not stack:
            children.append((closed, text[begin : match.start()]))
            at = match.end()
    return None if stack or text[at:].strip() else children
