"""Everything that can go wrong for a client, as one taxonomy.

`dialects.answers` maps each class to its HTTP status, and a dialect to its error body, each by one table;
nothing else in corral knows about status codes. Whatever is not a CorralError is a bug and is logged as one.
"""

import re


class CorralError(Exception):
    """Base of all errors a client is told about; `message` is written for that client."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def code_of(error: CorralError) -> str:
    """An error in one word, for counters and the log: `QueueFull` is `queue_full`, a bug `internal_error`."""
    if type(error) is CorralError:
        return "internal_error"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()


class InvalidRequest(CorralError):
    """The request is malformed or asks for something corral does not have.

    `param` names the offending field in the dialect's own terms, where there is one.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextExceeded(InvalidRequest):
    """The prompt, or prompt plus requested output, cannot fit the context. Lengths in tokens."""

    def __init__(
        self, message: str, *, prompt_tokens: int, limit_tokens: int, param: str | None = None
    ) -> None:
        super().__init__(message, param=param)
        self.prompt_tokens = prompt_tokens
        self.limit_tokens = limit_tokens


def prompt_too_long(
    prompt_tokens: int, limit_tokens: int, about: str = "", *, beside: str = "", param: str = "messages"
) -> ContextExceeded:
    """The error for a prompt that does not fit the context; `about` stands before its length, `beside` after.

    It has the words that clients look for (Cline, Continue), which are OpenAI's.
    """
    return ContextExceeded(
        f"this model's maximum context length is {limit_tokens} tokens, "
        f"but the prompt has {about}{prompt_tokens}{beside}",
        prompt_tokens=prompt_tokens,
        limit_tokens=limit_tokens,
        param=param,
    )


def inputs_too_long(tokens: int, limit_tokens: int) -> ContextExceeded:
    """The error for texts to be embedded that have at least so many tokens together, more than allowed."""
    return ContextExceeded(
        f"the inputs of one request may have {limit_tokens} tokens together, "
        f"and these have at least {tokens}",
        prompt_tokens=tokens,
        limit_tokens=limit_tokens,
        param="input",
    )


class PreviousResponseNotFound(InvalidRequest):
    """The request goes on from a response that is not stored (any more)."""


class Unauthorized(CorralError):
    """No valid API key came with the request."""


class Forbidden(CorralError):
    """The request's `Host` or `Origin` is not one this server answers to."""


class NotFound(CorralError):
    """No such route, model or object."""


class ModelNotFound(NotFound):
    """The request names a model that is not among those there are, which are `known`."""

    def __init__(self, message: str, *, name: str, known: tuple[str, ...]) -> None:
        super().__init__(message)
        self.name = name
        self.known = known


class MethodNotAllowed(CorralError):
    """The route exists but not for this method; `allowed` lists those it has."""

    def __init__(self, message: str, *, allowed: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allowed = allowed


class PayloadTooLarge(CorralError):
    """The request body is past `limit_bytes`."""

    def __init__(self, message: str, *, limit_bytes: int) -> None:
        super().__init__(message)
        self.limit_bytes = limit_bytes


class RequestTimeout(CorralError):
    """The request's body did not arrive in time."""


class UnsupportedMediaType(CorralError):
    """The request body is of a type or in an encoding that is not taken.

    `accept` are headers that say which is.
    """

    def __init__(self, message: str, *, accept: dict[str, str]) -> None:
        super().__init__(message)
        self.accept = accept


class ExpectationFailed(CorralError):
    """The request expects (`Expect`) something else than to be told to go on."""


class TargetTooLong(CorralError):
    """The request line is longer than the server reads."""


class HeadersTooLarge(CorralError):
    """The request's headers are more than the server reads."""


class UnknownCoding(CorralError):
    """The request body comes in a transfer coding that the server does not have."""


class VersionNotSupported(CorralError):
    """The request is in another version of HTTP than this connection speaks."""


class Overloaded(CorralError):
    """There is no room for the request at the moment; try again after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(CorralError):
    """The admission queue is full; try again after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(CorralError):
    """The server is shutting down and takes no new request."""


class ShutDown(CorralError):
    """The server shut down before the answer was complete."""


class DeadlineExceeded(CorralError):
    """The request took longer than the configured limit."""


class Cancelled(CorralError):
    """The client took its request back, by another one."""


class StoppedByOperator(CorralError):
    """An operator stopped the request."""


class EngineFailed(CorralError):
    """The engine failed, for this request or as a whole."""


class UpstreamFailed(EngineFailed):
    """The engine is a server elsewhere, and it failed or cannot be reached."""


class StartupError(Exception):
    """The server cannot start; the message is one line that says why and what to do. Not for clients."""
