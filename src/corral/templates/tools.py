"""Tool schemas that a template cannot cope with, made plainer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_TYPES = frozenset(("string", "number", "integer", "boolean", "object", "array"))


def plainer(tools: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same tools with everything in its place that templates look at without asking.

    Every function has a description and parameters, every parameter a description; a list of types has
    lost those a template recurses over (`null`, and names that are no type), and is one type if one is left.
    """
    return [{**tool, "function": _function(tool.get("function", {}))} for tool in tools]


def _function(function: Mapping[str, Any]) -> dict[str, Any]:
    parameters = function.get("parameters")
    return {
        **function,
        "description": function.get("description") or "",
        "parameters": _object(parameters if isinstance(parameters, Mapping) else {}),
    }


def _object(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {}, "required": [], **_schema(schema)}


def _schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {key: _value(value) for key, value in schema.items()}
    kinds = plain.get("type")
    if isinstance(kinds, Sequence) and not isinstance(kinds, str):
        known = [kind for kind in kinds if kind in _TYPES]
        plain["type"] = known if len(known) > 1 else known[0] if known else "string"
    properties = plain.get("properties")
    if isinstance(properties, dict):
        for name, value in properties.items():
            if isinstance(value, dict):
                properties[name] = {"description": "", "type": "string", **value}
    return plain


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _schema(value)
    return [_value(each) for each in value] if isinstance(value, list) else value
