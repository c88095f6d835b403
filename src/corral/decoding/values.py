"""What the text of a tagged argument means, by the type that the tool's schema gives it."""

import json
from collections.abc import Mapping
from typing import Any

from corral.decoding.json_scan import JsonScanner

_REFERENCE_DEPTH = 8
_NULLS = ("null", "None")

Types = frozenset[str]
"""JSON Schema's names of types; empty where the schema says nothing."""


class Parameters:
    """The types of one tool's parameters, read from its JSON Schema. An unreadable schema has none."""

    __slots__ = ("_properties", "_root", "_types")

    def __init__(self, schema: Any) -> None:
        self._root = schema if isinstance(schema, dict) else {}
        properties = _resolved(self._root, self._root).get("properties")
        self._properties: dict[str, Any] = properties if isinstance(properties, dict) else {}
        self._types: dict[str, Types] = {}

    @property
    def names(self) -> list[str]:
        return list(self._properties)

    def schema(self, name: str) -> Any:
        return self._properties.get(name)

    def types_of(self, schema: Any) -> Types:
        return schema_types(schema, self._root)

    def resolved(self, schema: Any) -> dict[str, Any]:
        return _resolved(schema, self._root) if isinstance(schema, dict) else {}

    def types(self, name: str) -> Types:
        found = self._types.get(name)
        if found is None:
            found = self._types[name] = schema_types(self._properties.get(name), self._root)
        return found


def schema_types(schema: Any, root: Mapping[str, Any], depth: int = 0) -> Types:
    """All types that a schema admits, as far as it says."""
    if not isinstance(schema, dict) or depth > _REFERENCE_DEPTH:
        return frozenset()
    schema = _resolved(schema, root)
    named = schema.get("type")
    types: set[str] = set()
    if isinstance(named, str):
        types.add(named.lower())
    elif isinstance(named, list):
        types.update(str(name).lower() for name in named)
    for key in ("anyOf", "oneOf"):
        choices = schema.get(key)
        if not types and isinstance(choices, list):
            admitted = [schema_types(choice, root, depth + 1) for choice in choices]
            if all(admitted):
                types.update(*admitted)
    parts = schema.get("allOf")
    if not types and isinstance(parts, list):
        known = [part for part in (schema_types(part, root, depth + 1) for part in parts) if part]
        types.update(frozenset.intersection(*known) if known else ())
    if not types and isinstance(schema.get("enum"), list):
        types.update(_type_of(value) for value in schema["enum"])
    if not types and "const" in schema:
        types.add(_type_of(schema["const"]))
    if not types and "properties" in schema:
        types.add("object")
    if not types and "items" in schema:
        types.add("array")
    if types and schema.get("nullable") is True:
        types.add("null")
    return frozenset(types)


def argument_json(text: str, types: Types) -> str:
    """The JSON text of a value that was written without quotes.

    What does not read as the schema's type is passed on as a string: the client validates, not we.
    """
    stripped = text.strip()
    if stripped in _NULLS and (not types or "null" in types):
        return "null"
    if types <= {"string", "null"} and types:
        return json.dumps(text, ensure_ascii=False)
    written = _literal(stripped)
    if written is not None and _admits(types, written):
        return written
    if types == {"boolean"} or types == {"boolean", "null"}:
        lowered = stripped.lower()
        if lowered in ("true", "false"):
            return lowered
    return json.dumps(text if not types or "string" in types else stripped, ensure_ascii=False)


def is_string(types: Types) -> bool:
    """Whether the value can be nothing but a string, or null."""
    return bool(types) and types <= {"string", "null"}


def may_be_null(text: str, types: Types) -> bool:
    """Whether a string's text so far may still turn out to be null."""
    return "null" in types and any(null.startswith(text.strip()) for null in _NULLS)


def _literal(text: str) -> str | None:
    """The JSON of a literal in JSON or Python, if `text` is one and nothing else."""
    scanner = JsonScanner("any")
    end = scanner.feed(text)
    scanner.finish()
    written = scanner.take()
    if not scanner.done or scanner.failed or end < len(text):
        return None
    return written


def _admits(types: Types, written: str) -> bool:
    """Whether a JSON text is of one of the types; a string is not: its quotes were part of it."""
    try:
        value = json.loads(written)
    except ValueError:  # a number of thousands of digits
        return False
    found = _type_of(value)
    if found == "string":
        return False
    if not types or found in types:
        return True
    if found == "integer":
        return "number" in types
    return isinstance(value, float) and "integer" in types and value.is_integer()


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    for kind, name in ((int, "integer"), (float, "number"), (str, "string"), (list, "array")):
        if isinstance(value, kind):
            return name
    return "object"


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> dict[str, Any]:
    """The schema that a chain of local references ends at."""
    for _ in range(_REFERENCE_DEPTH):
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            break
        target: Any = root
        for step in reference[2:].split("/"):
            step = step.replace("~1", "/").replace("~0", "~")
            target = target.get(step) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            break
        schema = target
    return dict(schema)
