"""Errors in the shape all of OpenAI's APIs share; their statuses and headers are in `dialects.answers`.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

`code` is one per error class, so that a client can tell every ending from every other.

Source: https://platform.openai.com/docs/guides/error-codes.
"""

from typing import Final

import msgspec

from corral import errors
from corral.dialects import ErrorReply
from corral.dialects.answers import headers_of, kind_of, message_of, status_of
from corral.dialects.wire import frame

CODES: Final[dict[type[BaseException], str | None]] = {
    errors.InvalidRequest: None,
    errors.ContextExceeded: "context_length_exceeded",
    errors.PreviousResponseNotFound: "previous_response_not_found",
    errors.Unauthorized: "invalid_api_key",
    errors.Forbidden: "forbidden",
    errors.NotFound: "not_found",
    errors.ModelNotFound: "model_not_found",
    errors.MethodNotAllowed: "method_not_allowed",
    errors.RequestTimeout: "request_timeout",
    errors.Cancelled: "cancelled",
    errors.PayloadTooLarge: "payload_too_large",
    errors.TargetTooLong: "uri_too_long",
    errors.UnsupportedMediaType: "unsupported_media_type",
    errors.ExpectationFailed: "expectation_failed",
    errors.QueueFull: "rate_limit_exceeded",
    errors.HeadersTooLarge: "headers_too_large",
    errors.CorralError: "internal_error",
    errors.UnknownCoding: "unknown_transfer_coding",
    errors.Draining: "server_draining",
    errors.EngineFailed: "engine_failed",
    errors.UpstreamFailed: "upstream_failed",
    errors.Overloaded: "server_overloaded",
    errors.ShutDown: "server_shutdown",
    errors.StoppedByOperator: "stopped_by_operator",
    errors.DeadlineExceeded: "deadline_exceeded",
    errors.VersionNotSupported: "http_version_not_supported",
}


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

    id_header = "x-request-id"
    prompt_param = "messages"
    """What this API calls the field that the prompt is in."""

    def error(self, error: Exception, request_id: str) -> ErrorReply:
        """The reply before the headers. What is not a CorralError is a bug, and tells nothing of itself."""
        body = _body(error)
        if body.error.param == "messages":  # which the engine says of every conversation
            body.error.param = self.prompt_param
        return ErrorReply(status_of(error), msgspec.json.encode(body), headers_of(error))


def error_frame(error: Exception) -> bytes:
    """The last frame of a stream that failed; `[DONE]` must not follow it."""
    return frame(_body(error))


def error_code(error: Exception) -> str:
    """The one word for an error; a request that is wrong in some other way is an `invalid_request`."""
    return CODES[kind_of(error)] or "invalid_request"


def _body(error: Exception) -> ErrorBody:
    param = error.param if isinstance(error, errors.InvalidRequest) else None
    return ErrorBody(_Error(message_of(error), _type(status_of(error)), param, CODES[kind_of(error)]))


def _type(status: int) -> str:
    if status == 429:
        return "requests"
    return "invalid_request_error" if status < 500 else "server_error"
