"""Errors in the shape of Anthropic's API, from one table.

    {"type": "error", "error": {"type": ..., "message": ...}, "request_id": ...}

Anthropic's clients raise by `error.type` in a stream and by the HTTP status before it. They retry on 408,
409, 429 and 5xx up to twice. Where a retry can only fail again, the header that they honour says so
(`x-should-retry: false`).

Source: https://docs.anthropic.com/en/api/errors and anthropic-python's `_base_client.py`.
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from corral import errors
from corral.dialects import ErrorReply
from corral.dialects.wire import frame

RESTART_S: Final = 10
"""What clients of a server that is shutting down are told to wait: about a restart with a small model."""


@dataclass(frozen=True, slots=True)
class _Row:
    status: int
    type: str
    retry: bool = True


_TABLE: Final[dict[type[BaseException], _Row]] = {
    errors.InvalidRequest: _Row(400, "invalid_request_error"),
    errors.Unauthorized: _Row(401, "authentication_error"),
    errors.Forbidden: _Row(403, "permission_error"),
    errors.NotFound: _Row(404, "not_found_error"),
    errors.MethodNotAllowed: _Row(405, "invalid_request_error"),
    errors.RequestTimeout: _Row(408, "timeout_error"),
    errors.PayloadTooLarge: _Row(413, "request_too_large"),
    errors.QueueFull: _Row(429, "rate_limit_error"),
    errors.Draining: _Row(503, "overloaded_error"),
    errors.ShutDown: _Row(503, "overloaded_error"),
    errors.StoppedByOperator: _Row(503, "api_error", retry=False),
    errors.DeadlineExceeded: _Row(504, "timeout_error", retry=False),
    errors.EngineFailed: _Row(500, "api_error"),
    errors.CorralError: _Row(500, "api_error"),
}
_BUG: Final = _TABLE[errors.CorralError]


class _Error(msgspec.Struct, gc=False):
    type: str
    message: str


class ErrorBody(msgspec.Struct, gc=False, tag_field="type", tag="error"):
    """The body of an error reply, and the last frame of a stream that failed."""

    error: _Error
    request_id: str | None = None


def error_reply(error: Exception, request_id: str | None = None) -> ErrorReply:
    """The reply before the headers. What is not a CorralError is a bug, and tells nothing of itself."""
    row = _row(error)
    headers = {"request-id": request_id} if request_id else {}
    match error:
        case errors.MethodNotAllowed():
            headers["Allow"] = ", ".join(error.allowed)
        case errors.QueueFull():
            headers["Retry-After"] = str(error.retry_after_s)
        case errors.Draining() | errors.ShutDown():
            headers["Retry-After"] = str(RESTART_S)
    if not row.retry:
        headers["x-should-retry"] = "false"
    return ErrorReply(row.status, msgspec.json.encode(_body(error, row, request_id)), headers)


def error_frame(error: Exception, request_id: str | None = None) -> bytes:
    """The last frame of a stream that failed; no `message_stop` follows it."""
    return b"event: error\n" + frame(_body(error, _row(error), request_id))


def _row(error: Exception) -> _Row:
    """The row of the error's nearest ancestor, so that a subclass is told as what it refines."""
    return next((_TABLE[ancestor] for ancestor in type(error).__mro__ if ancestor in _TABLE), _BUG)


def _body(error: Exception, row: _Row, request_id: str | None) -> ErrorBody:
    message = error.message if isinstance(error, errors.CorralError) else "Internal error."
    if isinstance(error, errors.InvalidRequest) and error.param and error.param not in message:
        message = f"{error.param}: {message}"
    return ErrorBody(_Error(row.type, message), request_id)
