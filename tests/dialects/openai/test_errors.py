from collections.abc import Callable

import msgspec
import pytest

from corral import errors
from corral.dialects import ErrorReply
from corral.dialects.openai.errors import OpenAIErrors, error_frame

EXAMPLES: list[errors.CorralError] = [
    errors.InvalidRequest("Invalid 'n': expected `int` >= 1.", param="n"),
    errors.ContextExceeded(
        "The prompt has 5000 tokens, the context 2048.",
        prompt_tokens=5000,
        limit_tokens=2048,
        param="messages",
    ),
    errors.Unauthorized("No such API key."),
    errors.Forbidden("This server does not answer to that host."),
    errors.NotFound("There is nothing at /v1/nothing."),
    errors.ModelNotFound("There is no model 'gpt-9' here.", name="gpt-9", known=("m",)),
    errors.MethodNotAllowed("Use POST.", allowed=("POST", "OPTIONS")),
    errors.RequestTimeout("The body took longer than 10 s."),
    errors.Cancelled("The client cancelled this request."),
    errors.PayloadTooLarge("The body is larger than 1048576 bytes.", limit_bytes=1048576),
    errors.TargetTooLong("The request line is longer than 32768 bytes."),
    errors.UnsupportedMediaType("No such type.", accept={"Accept": "application/json"}),
    errors.ExpectationFailed("This server expects nothing of the kind."),
    errors.HeadersTooLarge("The headers are larger than 32768 bytes."),
    errors.UnknownCoding("There is no transfer coding 'zip' here."),
    errors.VersionNotSupported("This is HTTP/1.1."),
    errors.Overloaded("Too many bodies.", retry_after_s=1),
    errors.QueueFull("64 requests are waiting.", retry_after_s=7),
    errors.PreviousResponseNotFound("There is no stored response.", param="previous_response_id"),
    errors.Draining("The server is shutting down."),
    errors.ShutDown("The server shut down."),
    errors.StoppedByOperator("An operator stopped this request."),
    errors.DeadlineExceeded("The request took longer than 600 s."),
    errors.EngineFailed("llama.cpp failed."),
    errors.UpstreamFailed("None of the engines behind this server is in service."),
]


def told(error: Exception) -> ErrorReply:
    return OpenAIErrors().error(error, "req_1")


def test_every_error_has_an_example_here() -> None:
    classes = {value for value in vars(errors).values() if isinstance(value, type)}
    known = {value for value in classes if issubclass(value, errors.CorralError)}
    assert {type(error) for error in EXAMPLES} == known - {errors.CorralError}


def test_replies_are_as_reviewed(golden: Callable[[str, bytes], None]) -> None:
    transcript = []
    for error in EXAMPLES:
        reply = told(error)
        headers = [f"{name}: {value}" for name, value in reply.headers.items()]
        transcript += [f"{type(error).__name__}: {reply.status}", *headers, reply.body.decode(), ""]
    golden("errors.txt", "\n".join(transcript).encode())


def test_endings_can_be_told_apart() -> None:
    codes = [msgspec.json.decode(told(error).body)["error"]["code"] for error in EXAMPLES]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("bug", [RuntimeError("password=hunter2"), KeyError("x"), errors.CorralError("told")])
def test_a_bug_tells_nothing_of_itself(bug: Exception) -> None:
    reply = told(bug)
    message = "told" if isinstance(bug, errors.CorralError) else "Internal error."
    assert reply.status == 500
    assert msgspec.json.decode(reply.body)["error"] == {
        "message": message,
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }


def test_a_subclass_is_told_as_what_it_refines() -> None:
    class Cramped(errors.ContextExceeded):
        pass

    error = Cramped("too long", prompt_tokens=9, limit_tokens=8)
    assert msgspec.json.decode(told(error).body)["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("error", [*EXAMPLES, ZeroDivisionError()])
def test_a_frame_says_the_same_as_a_reply(error: Exception) -> None:
    assert error_frame(error) == b"data: %b\n\n" % told(error).body
