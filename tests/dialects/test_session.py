"""What a conversation is called by its client, wherever that stands; never who the user is."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.dialects.session import SESSION_CHARS, session_of

CLAUDE = "user_5f1b0c_account_7c9e6679-7425-40de-944b-e07fc1f90ae7_session_6b86b273-ff34-4ce1-9d6b"
PACKED = json.dumps({"device_id": "d", "account_uuid": "secret", "session_id": "6b86b273"})


def of(body: Any) -> str:
    return session_of(json.dumps(body).encode(), {})


@pytest.mark.parametrize("header", ["x-session-id", "session-id", "session_id"])
def test_a_header_names_it(header: str) -> None:
    assert session_of(b"{}", {header: "01f3-abc"}) == "01f3-abc"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"session_id": "s-1"}, "s-1"),
        ({"prompt_cache_key": "app, chat 7"}, "app, chat 7"),
        ({"session_id": "s-1", "prompt_cache_key": "k"}, "s-1"),
        ({"metadata": {"user_id": CLAUDE}}, "6b86b273-ff34-4ce1-9d6b"),
        ({"metadata": {"user_id": PACKED}}, "6b86b273"),
    ],
)
def test_the_body_names_it(body: Any, expected: str) -> None:
    assert of(body) == expected


def test_a_header_goes_before_the_body() -> None:
    assert session_of(b'{"session_id": "body"}', {"x-session-id": "header"}) == "header"


@pytest.mark.parametrize(
    "body",
    [
        {"user": "somebody"},
        {"metadata": {"user_id": "somebody"}},
        {"metadata": {"user_id": json.dumps({"account_uuid": "somebody"})}},
        {"metadata": ["user_id"]},
        {"metadata": {"user_id": 7}},
        {"session_id": 7},
        {"session_id": ""},
        {"session_id": "x" * (SESSION_CHARS + 1)},
        {"session_id": "two\nlines"},
        {"prompt_cache_key": "\u202eabc"},
        [],
    ],
)
def test_what_names_no_session_or_none_that_can_be_shown_gives_none(body: Any) -> None:
    assert of(body) == ""


@given(
    st.binary(max_size=60)
    | st.recursive(st.text(), lambda inner: st.dictionaries(st.text(), inner)).map(
        lambda value: json.dumps({"metadata": {"user_id": value}, "session_id": value}).encode()
    )
)
def test_whatever_a_body_is_a_session_is_a_line_or_nothing(body: bytes) -> None:
    session = session_of(body, {})
    assert session.isprintable()
    assert len(session) <= SESSION_CHARS
