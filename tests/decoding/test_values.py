"""What the text of a tagged argument means, by the type that the schema gives it."""

import json
from typing import Any

import pytest

from corral.decoding.values import Parameters, argument_json, schema_types


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["string", "null"]}, {"string", "null"}),
        ({"type": "integer", "nullable": True}, {"integer", "null"}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"integer", "null"}),
        ({"oneOf": [{"type": "string"}, {}]}, set()),
        ({"allOf": [{"type": ["string", "null"]}, {"type": "string"}]}, {"string"}),
        ({"enum": ["a", 1]}, {"string", "integer"}),
        ({"const": True}, {"boolean"}),
        ({"properties": {}}, {"object"}),
        ({"items": {}}, {"array"}),
        ({"$ref": "#/$defs/place"}, {"string"}),
        ({"$ref": "#/$defs/loop"}, set()),
        ({"$ref": "https://example.org/schema"}, set()),
        ({}, set()),
        (True, set()),
    ],
)
def test_a_schema_tells_its_types(schema: Any, types: set[str]) -> None:
    root = {"$defs": {"place": {"type": "string"}, "loop": {"$ref": "#/$defs/loop"}}}
    assert schema_types(schema, root) == types


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        ("007", {"string"}, "007"),
        ("7", {"integer"}, 7),
        ("7", {"number"}, 7),
        ("7.0", {"integer"}, 7.0),
        ("7.5", {"integer"}, "7.5"),
        ("seven", {"integer"}, "seven"),
        ("True", {"boolean"}, True),
        ("FALSE", {"boolean"}, False),
        ("yes", {"boolean"}, "yes"),
        ("None", {"string", "null"}, None),
        ("null", {"string"}, "null"),
        ("null", {"integer", "null"}, None),
        ("{'a': [1, None]}", {"object"}, {"a": [1, None]}),
        ("[1]", {"object"}, "[1]"),
        ("7", {"string", "integer"}, 7),
        ("007", {"string", "integer"}, "007"),
        ("7", set(), 7),
        ('"7"', set(), '"7"'),
        (" two words ", set(), " two words "),
        ("", {"integer"}, ""),
        ("1e999", {"integer"}, "1e999"),
        ("9" * 5_000, {"integer"}, "9" * 5_000),
    ],
)
def test_a_value_is_of_its_type_or_a_string(text: str, types: set[str], value: Any) -> None:
    assert json.loads(argument_json(text, frozenset(types))) == value


def test_a_schema_that_cannot_be_read_has_no_types() -> None:
    unreadable: list[Any] = [None, [], "x", {"properties": []}, {"properties": {"a": 1}}]
    for schema in unreadable:
        assert Parameters(schema).types("a") == frozenset()
