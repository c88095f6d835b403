"""What our clients are told of what upstreams answer."""

import json

import pytest

from corral.engine.upstream.faults import fault_of_answer, fault_of_frame
from corral.errors import ContextExceeded, InvalidRequest, Overloaded, UpstreamFailed

KEY = "sk-secret"


def body(message: str, **more: object) -> bytes:
    return json.dumps({"error": {"message": message, **more}}).encode()


@pytest.mark.parametrize(
    ("status", "kind", "elsewhere", "blames"),
    [
        (302, UpstreamFailed, True, True),
        (400, InvalidRequest, False, False),
        (401, UpstreamFailed, True, True),
        (403, UpstreamFailed, True, True),
        (404, UpstreamFailed, True, True),
        (418, UpstreamFailed, True, True),
        (422, InvalidRequest, False, False),
        (429, Overloaded, True, False),
        (500, UpstreamFailed, True, True),
        (503, UpstreamFailed, True, True),
        (204, UpstreamFailed, True, True),
    ],
)
def test_every_status_is_one_of_our_errors(status: int, kind: type, elsewhere: bool, blames: bool) -> None:
    fault = fault_of_answer(status, body("no"))
    assert type(fault.error) is kind
    assert (fault.elsewhere, fault.blames) == (elsewhere, blames)


@pytest.mark.parametrize("status", [302, 401, 403, 404, 429, 500, 503])
def test_what_an_upstream_says_of_itself_is_not_passed_on(status: int) -> None:
    said = fault_of_answer(status, body(f"Incorrect API key {KEY} at /srv/models")).error.message
    assert KEY not in said
    assert "/srv" not in said


@pytest.mark.parametrize(
    ("text", "prompt_tokens", "limit_tokens"),
    [
        (body("x", code=400, type="exceed_context_size_error", n_prompt_tokens=90, n_ctx=64), 90, 64),
        (body("This model's maximum context length is 64 tokens.", code=400), 0, 0),
        (body("too long", code="context_length_exceeded"), 0, 0),
    ],
)
def test_a_prompt_too_long_is_told_as_that(text: bytes, prompt_tokens: int, limit_tokens: int) -> None:
    error = fault_of_answer(400, text).error
    assert isinstance(error, ContextExceeded)
    assert (error.prompt_tokens, error.limit_tokens) == (prompt_tokens, limit_tokens)


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7), ("", 5), ("soon", 5), ("0", 1), ("9" * 40, 60), ("-3", 5)]
)
def test_how_long_to_wait_is_passed_on_within_reason(header: str, seconds: int) -> None:
    error = fault_of_answer(429, b"", header).error
    assert isinstance(error, Overloaded)
    assert error.retry_after_s == seconds


def test_a_corral_that_has_no_room_for_a_model_just_now_is_not_to_blame() -> None:
    full = body("no room", code="server_overloaded", type="server_error")
    frame = {"message": "no room", "code": "server_overloaded", "type": "server_error"}
    for fault in (fault_of_answer(503, full, "7"), fault_of_frame(frame)):
        assert isinstance(fault.error, Overloaded)
        assert (fault.elsewhere, fault.blames) == (True, False)
        assert "no room" not in fault.error.message
    assert fault_of_answer(503, body("dead", code="engine_failed")).blames


NOTHING = [b"", b"\xff", b"[]", b"{", b'{"error": 3}', b'{"error": {"message": 4}}', b"[" * 9000]


@pytest.mark.parametrize("text", NOTHING)
def test_a_body_that_says_nothing_does_no_harm(text: bytes) -> None:
    assert fault_of_answer(400, text).error.message


def test_a_long_message_is_cut_and_made_printable() -> None:
    said = fault_of_answer(400, body("\x1b[31m" + "a" * 10_000)).error.message
    assert len(said) < 1000
    assert "\x1b" not in said


def test_a_text_that_is_too_long_is_told_by_its_own_name() -> None:
    error = fault_of_answer(400, body("too long", code="context_length_exceeded"), param="prompt").error
    assert isinstance(error, ContextExceeded)
    assert error.param == "prompt"
