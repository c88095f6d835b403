"""One string out of a growing JSON object."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.decoding.string_field import StringField

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.text(), st.dictionaries(st.text(max_size=5), values, max_size=4), st.booleans(), st.integers(1, 9))
def test_any_split_gives_the_whole_string(
    text: str, others: dict[str, object], is_ascii: bool, size: int
) -> None:
    raw = json.dumps({**others, "input": text}, ensure_ascii=is_ascii)
    field = StringField("input")
    said = "".join(field.feed(raw[start : start + size]) for start in range(0, len(raw), size))
    assert said == text


def test_what_is_there_is_told_at_once() -> None:
    field = StringField("input")
    assert field.feed('{"input": "echo ') == "echo "
    assert field.feed("\\") == ""
    assert field.feed("n$HO") == "\n$HO"
    assert field.feed('ME"}') == "ME"


@pytest.mark.parametrize("raw", ["", "{", '{"other": "input"}', '{"other": {"input": "no"}}', '{"input": 5}'])
def test_without_the_field_there_is_nothing(raw: str) -> None:
    assert StringField("input").feed(raw) == ""
