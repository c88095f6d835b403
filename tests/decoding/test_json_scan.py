"""JSON as models write it: mended where that is certain, and a prefix of valid JSON at every moment."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.decoding.json_scan import JsonScanner, Wanted, complete_json, completed

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
JSON_CHARACTERS = st.text(alphabet="{}[]()\"'\\:, \n\t0123456789.eE+-truefalsnTFNoxu\ud800é", max_size=60)


def scan(text: str, wanted: Wanted = "any", **options: Any) -> tuple[str, JsonScanner]:
    scanner = JsonScanner(wanted, **options)
    at = 0
    while at < len(text) and not (scanner.done or scanner.failed):
        at = scanner.feed(text, at)
    scanner.finish()
    return scanner.take(), scanner


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('{"a": "line\nbreak\ttab"}', {"a": "line\nbreak\ttab"}),
        ("{'it': 'isn\\'t'}", {"it": "isn't"}),
        ("{a: True, b: False, c: None,}", {"a": True, "b": False, "c": None}),
        ("(1, 2.5, )", [1, 2.5]),
        ('{"regex": "\\d+\\."}', {"regex": "\\d+\\."}),
        ("{1: -.5, 'b': +3, 'c': 4.}", {"1": -0.5, "b": 3, "c": 4.0}),
        ("'\\x41\\u00e9'", "Aé"),
        ("'\\U0001f680\\Uffffffff'", "🚀\\Uffffffff"),
        ('"\\ud83d\\ude80"', "🚀"),
        ('"\\u12"', "\\u12"),
    ],
)
def test_what_is_certain_is_mended(written: str, meant: Any) -> None:
    text, scanner = scan(written)
    assert scanner.done
    assert json.loads(text) == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('{"a": "\\ud83d"}', {"a": "\ufffd"}),
        ('{"a": "\\ud83d:"}', {"a": "\ufffd:"}),
        ('{"a": "\\ud83d\\n"}', {"a": "\ufffd\n"}),
        ('{"a": "\\ud83d\\d"}', {"a": "\ufffd\\d"}),
        ('{"a": "\\ud83d\\u12"}', {"a": "\ufffd\\u12"}),
        ('{"a": "\\ud83d\\u0041"}', {"a": "\ufffdA"}),
        ('{"a": "\\ud83d\\ud83d\\ude80"}', {"a": "\ufffd🚀"}),
        ('{"a": "\\ude80\\ud83d"}', {"a": "\ufffd\ufffd"}),
        ('{"\\udfff": "\\\\ud83d"}', {"\ufffd": "\\ud83d"}),
        ("{'a': '\\ud83d\\U0001f680\\U0000d83d\\U0000de80'}", {"a": "\ufffd🚀\ufffd\ufffd"}),
    ],
)
def test_half_a_surrogate_pair_is_no_character(written: str, meant: Any) -> None:
    for size in range(1, len(written) + 1):
        scanner, text = JsonScanner("any"), ""
        for at in range(0, len(written), size):
            scanner.feed(written[at : at + size])
            text += scanner.take()
            msgspec.json.decode(completed(text))  # refuses half a pair
        assert scanner.done
        assert msgspec.json.decode(text) == meant


@given(st.lists(st.sampled_from(["\\ud83d", "\\ude80", "\\u00", "\\", "d8", '"', "x", "\n"]), max_size=12))
def test_no_string_that_leaves_holds_half_a_surrogate_pair(pieces: list[str]) -> None:
    scanner, text = JsonScanner("any"), ""
    scanner.feed('["')
    for piece in pieces:
        scanner.feed(piece)
        text += scanner.take()
        msgspec.json.decode(completed(text))


@pytest.mark.parametrize(
    ("written", "leaves"),
    [
        ('{"a": oops}', '{"a": '),
        ('{"a": 01}', '{"a": 0'),
        ('{"a" 1}', '{"a" '),
        ('{"a": 1 "b"', '{"a": 1 '),
        ('{"a": [1}', '{"a": [1'),
        ("{,", "{"),
        ('{"a": }', '{"a": '),
        ('{"a": 1e}', '{"a": 1e'),
    ],
)
def test_what_is_not_certain_fails_and_what_left_stays_a_prefix(written: str, leaves: str) -> None:
    text, scanner = scan(written)
    assert scanner.failed
    assert text == leaves


@pytest.mark.parametrize(("wanted", "written"), [("object", "[1]"), ("object", '"x"'), ("string", "{}")])
def test_another_kind_of_value_than_is_wanted_fails(wanted: Wanted, written: str) -> None:
    assert scan(written, wanted)[1].failed


def test_the_end_of_the_value_is_where_scanning_stops() -> None:
    scanner = JsonScanner()
    text = '{"a": {}} and more'
    assert text[scanner.feed(text) :] == " and more"


def test_a_token_used_as_a_quote_has_no_escapes_inside() -> None:
    text, scanner = scan('{a:\ud801say "hi"\\n\ud801}', quote="\ud801")
    assert scanner.done
    assert json.loads(text) == {"a": 'say "hi"\\n'}


def test_a_control_token_in_a_string_is_the_text_it_spells() -> None:
    text, _ = scan('"a\ud800b"', spelling={"\ud800": "<|x|>"})
    assert json.loads(text) == "a<|x|>b"


def test_nesting_is_bounded() -> None:
    assert scan("[" * 1_000)[1].failed


@given(VALUES)
def test_valid_json_passes_unchanged(value: Any) -> None:
    written = json.dumps(value, ensure_ascii=False)
    text, scanner = scan(written)
    assert scanner.done
    assert text == written


@given(VALUES, st.integers(1, 5))
def test_every_prefix_of_valid_json_can_be_completed(value: Any, size: int) -> None:
    written = json.dumps({"value": value})
    scanner = JsonScanner()
    prefix = ""
    for at in range(0, len(written), size):
        scanner.feed(written[at : at + size])
        prefix += scanner.take()
        complete_json(prefix)
    assert complete_json(prefix) == {"value": value}


@given(JSON_CHARACTERS, st.integers(1, 4))
def test_whatever_comes_what_leaves_can_be_completed_to_valid_json(text: str, size: int) -> None:
    scanner = JsonScanner("any")
    prefix = ""
    rest = text
    while rest and not (scanner.done or scanner.failed):
        consumed = scanner.feed(rest[:size])
        rest = rest[consumed:]
        prefix += scanner.take()
        if prefix:
            complete_json(prefix)
    scanner.finish()
    prefix += scanner.take()
    if scanner.done:
        json.loads(prefix)


@pytest.mark.parametrize(
    ("prefix", "meant"),
    [
        ("", {}),
        ("{", {}),
        ('{"a', {}),
        ('{"a": ', {}),
        ('{"a": 1, "b', {"a": 1}),
        ('{"a": "x', {"a": "x"}),
        ('{"a": "x\\', {"a": "x"}),
        ('{"a": "x\\\\', {"a": "x\\"}),
        ('{"a": "\\ud83d', {"a": ""}),
        ('{"a": [1, {"b": "c', {"a": [1, {"b": "c"}]}),
        ('{"a": -', {}),
        ('{"a": 12', {"a": 12}),
        ('{"a": 1.', {"a": 1}),
    ],
)
def test_a_prefix_means_what_it_holds_so_far(prefix: str, meant: Any) -> None:
    assert complete_json(prefix) == meant


def test_a_number_of_thousands_of_digits_is_completed_though_python_would_not_read_it() -> None:
    prefix = '{"a": [' + "3" * 8001
    assert completed(prefix) == prefix + "]}"
