"""Errors in the shape of Anthropic's API.

    {"type": "error", "error": {"type": ..., "message": ...}, "request_id": ...}

Anthropic's clients raise by `error.type` in a stream and by the HTTP status before it. Status and headers are
those of every API here; see `answers`.

Claude Code makes its conversation shorter when it reads "prompt is too long: N tokens > M maximum".

Source: https://docs.anthropic.com/en/api/errors and anthropic-python's `_exceptions.py`.
"""

from typing import Final

import msgspec

from corral import errors
from corral.dialects import ErrorReply
from corral.dialects.answers import headers_of, message_of, status_of
from corral.dialects.wire import frame

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""By HTTP status; of those that are not here, what is below 500 is the request's fault."""

_NOT_OVERLOADED: Final = (errors.EngineFailed, errors.UpstreamFailed, errors.StoppedByOperator)
"""They have the status of what will be better soon, and are not."""


class _Error(msgspec.Struct, gc=False):
    type: str
    message: str


class ErrorBody(msgspec.Struct, gc=False, tag_field="type", tag="error"):
    """The body of an error reply, and the last frame of a stream that failed."""

    error: _Error
    request_id: str | None = None


class AnthropicErrors:
    """How errors are told at a path of Anthropic's; an `Errors`."""

    id_header = "request-id"

    def error(self, error: Exception, request_id: str) -> ErrorReply:
        """The reply before the headers. What is not a CorralError is a bug, and tells nothing of itself."""
        body = msgspec.json.encode(_body(error, request_id))
        return ErrorReply(status_of(error), body, headers_of(error))


def error_frame(error: Exception) -> bytes:
    """The last frame of a stream that failed; no `message_stop` follows it."""
    return b"event: error\n" + frame(_body(error, None))


def _body(error: Exception, request_id: str | None) -> ErrorBody:
    message, status = message_of(error), status_of(error)
    if isinstance(error, errors.ContextExceeded) and error.prompt_tokens >= error.limit_tokens:
        message = f"prompt is too long: {error.prompt_tokens} tokens > {error.limit_tokens} maximum"
    elif isinstance(error, errors.InvalidRequest) and error.param and error.param not in message:
        message = f"{error.param}: {message}"
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    if isinstance(error, _NOT_OVERLOADED):
        kind = "api_error"
    return ErrorBody(_Error(kind, message), request_id)
