"""The status and the headers of every answer that is an error: one table, the same for every API.

What the body says is each API's own. Statuses are those of RFC 9110 and RFC 6585. OpenAI's and Anthropic's
clients repeat a request after 408, 409, 429 and 5xx, up to twice; where that can only fail again or is not
wanted, the header they honour (`x-should-retry: false`) says so.

Source of that: openai-python's `_base_client.py`, and anthropic's, which is the same.
"""

from typing import Final

from corral import errors

RESTART_S: Final = 10
"""What clients of a server that is shutting down are told to wait: about a restart with a small model."""

MESSAGE_CHARS: Final = 1000
"""How much of what went wrong is told."""

STATUSES: Final[dict[type[BaseException], int]] = {
    errors.InvalidRequest: 400,
    errors.ContextExceeded: 400,
    errors.PreviousResponseNotFound: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.ModelNotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.RequestTimeout: 408,
    errors.Cancelled: 409,
    errors.PayloadTooLarge: 413,
    errors.TargetTooLong: 414,
    errors.UnsupportedMediaType: 415,
    errors.ExpectationFailed: 417,
    errors.QueueFull: 429,
    errors.HeadersTooLarge: 431,
    errors.CorralError: 500,
    errors.UnknownCoding: 501,
    errors.Draining: 503,
    errors.EngineFailed: 503,
    errors.UpstreamFailed: 503,
    errors.Overloaded: 503,
    errors.ShutDown: 503,
    errors.StoppedByOperator: 503,
    errors.DeadlineExceeded: 504,
    errors.VersionNotSupported: 505,
}

_NOT_AGAIN: Final = (errors.Cancelled, errors.StoppedByOperator, errors.DeadlineExceeded)


def kind_of(error: Exception) -> type[BaseException]:
    """The nearest ancestor of an error in the table, so that a subclass is told as what it refines.

    CorralError, which is told as a bug, for what is not one of ours.
    """
    return next((kind for kind in type(error).__mro__ if kind in STATUSES), errors.CorralError)


def status_of(error: Exception) -> int:
    return STATUSES[kind_of(error)]


def message_of(error: Exception) -> str:
    """What a client is told; of a bug, nothing. It may quote the request, but gives no megabytes back."""
    message = error.message if isinstance(error, errors.CorralError) else "Internal error."
    return message if len(message) <= MESSAGE_CHARS else f"{message[:MESSAGE_CHARS]}…"


def headers_of(error: Exception) -> dict[str, str]:
    """The headers that go with an error, whatever the API."""
    headers: dict[str, str] = {}
    match error:
        case errors.MethodNotAllowed():
            headers["Allow"] = ", ".join(error.allowed)
        case errors.UnsupportedMediaType():
            headers |= error.accept
        case errors.QueueFull() | errors.Overloaded():
            headers["Retry-After"] = str(error.retry_after_s)
        case errors.Draining() | errors.ShutDown():
            headers["Retry-After"] = str(RESTART_S)
    if isinstance(error, _NOT_AGAIN):
        headers["x-should-retry"] = "false"
    return headers
