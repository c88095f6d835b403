"""Errors in the shape all of OpenAI's APIs share, from one table.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

`code` is one per error class, so that a client can tell every ending from every other. OpenAI's clients
retry on 408, 409, 429 and 5xx up to twice; where a retry can only fail again or is not wanted, the header
they honour (`x-should-retry: false`) says so.

Source: https://platform.openai.com/docs/guides/error-codes and openai-python's `_base_client.py`.
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
    code: str | None
    retry: bool = True


_TABLE: Final[dict[type[BaseException], _Row]] = {
    errors.InvalidRequest: _Row(400, "invalid_request_error", None),
    errors.ContextExceeded: _Row(400, "invalid_request_error", "context_length_exceeded"),
    errors.Unauthorized: _Row(401, "invalid_request_error", "invalid_api_key"),
    errors.Forbidden: _Row(403, "invalid_request_error", "forbidden"),
    errors.NotFound: _Row(404, "invalid_request_error", "not_found"),
    errors.MethodNotAllowed: _Row(405, "invalid_request_error", "method_not_allowed"),
    errors.RequestTimeout: _Row(408, "invalid_request_error", "request_timeout"),
    errors.ClientTooSlow: _Row(408, "invalid_request_error", "client_too_slow", retry=False),
    errors.PayloadTooLarge: _Row(413, "invalid_request_error", "payload_too_large"),
    errors.QueueFull: _Row(429, "requests", "rate_limit_exceeded"),
    errors.Draining: _Row(503, "server_error", "server_draining"),
    errors.ShutDown: _Row(503, "server_error", "server_shutdown"),
    errors.StoppedByOperator: _Row(503, "server_error", "stopped_by_operator", retry=False),
    errors.DeadlineExceeded: _Row(504, "server_error", "deadline_exceeded", retry=False),
    errors.EngineFailed: _Row(503, "server_error", "engine_failed"),
    errors.CorralError: _Row(500, "server_error", "internal_error"),
}
_BUG: Final = _TABLE[errors.CorralError]


class _Error(msgspec.Struct, gc=False):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, gc=False):
    """The body of an error reply, and the last frame of a stream that failed."""

    error: _Error


class OpenAIErrors:
    """How errors are told at a path of OpenAI's; an `Errors`."""

    def error(self, error: Exception, request_id: str) -> ErrorReply:
        """The reply before the headers. What is not a CorralError is a bug, and tells nothing of itself."""
        row = _row(error)
        headers: dict[str, str] = {}
        match error:
            case errors.MethodNotAllowed():
                headers["Allow"] = ", ".join(error.allowed)
            case errors.QueueFull():
                headers["Retry-After"] = str(error.retry_after_s)
            case errors.Draining() | errors.ShutDown():
                headers["Retry-After"] = str(RESTART_S)
        if not row.retry:
            headers["x-should-retry"] = "false"
        return ErrorReply(row.status, msgspec.json.encode(_body(error, row)), headers)


def error_frame(error: Exception) -> bytes:
    """The last frame of a stream that failed; `[DONE]` must not follow it."""
    return frame(_body(error, _row(error)))


def _row(error: Exception) -> _Row:
    """The row of the error's nearest ancestor, so that a subclass is told as what it refines."""
    return next((_TABLE[ancestor] for ancestor in type(error).__mro__ if ancestor in _TABLE), _BUG)


def _body(error: Exception, row: _Row) -> ErrorBody:
    message = error.message if isinstance(error, errors.CorralError) else "Internal error."
    param = error.param if isinstance(error, errors.InvalidRequest) else None
    return ErrorBody(_Error(message, row.type, param, row.code))
