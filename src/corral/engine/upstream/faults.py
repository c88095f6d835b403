"""What an upstream does wrong, and what becomes of it: one table from its statuses to our errors.

A fault says three things: what our client is told, whether another replica may do better, and whether it
counts against this one. A message of an upstream is passed on where it is about the request; where it is
about the upstream itself it may name a key or a machine, and stays here.
"""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from corral.errors import (
    ContextExceeded,
    CorralError,
    EngineFailed,
    InvalidRequest,
    Overloaded,
    UpstreamFailed,
)
from corral.printable import one_line
from corral.request import GenerationRequest

RETRY_S: Final = 5
"""What a client is told to wait for an upstream that is full and does not say how long."""
MOST_RETRY_S: Final = 60
MESSAGE_CHARS: Final = 500
MOST_TOKENS: Final = 2**24
"""Of one request, or of what fits one: more than any model has."""

_CONTEXT_CODES: Final = ("context_length_exceeded", "exceed_context_size_error")
_CONTEXT_WORDS: Final = ("context length", "context size", "maximum context", "context window")
_FULL_CODE: Final = "server_overloaded"
"""Of a corral that is well, and has no room in memory just now: for the model, or for the body."""
_OURS: Final = ("invalid_request_error", "BadRequestError", "exceed_context_size_error")
"""Types of errors that come in a stream and are about the request."""


class Fault(Exception):
    """An attempt that failed."""

    def __init__(self, error: CorralError, *, elsewhere: bool = True, blames: bool = True) -> None:
        """`elsewhere`: another replica may do better. `blames`: it counts against this one."""
        super().__init__(error.message)
        self.error = error
        self.elsewhere = elsewhere
        self.blames = blames


def broken(what: str) -> Fault:
    """It did not do what it should; `what` completes "the engine behind this server …"."""
    return Fault(UpstreamFailed(f"the engine behind this server {what}"))


@dataclass(frozen=True, slots=True)
class _Told:
    """What an error's body says, as far as it is known to say anything."""

    message: str = ""
    type: str = ""
    code: str | int | None = None
    prompt_tokens: int = 0
    ctx_tokens: int = 0

    @property
    def is_about_length(self) -> bool:
        if self.code in _CONTEXT_CODES or self.type in _CONTEXT_CODES:
            return True
        text = self.message.lower()
        return any(words in text for words in _CONTEXT_WORDS)


def prompt_param(request: GenerationRequest) -> str:
    """What clients call a request's prompt."""
    return "messages" if request.prompt is None else "prompt"


def fault_of_answer(status: int, body: bytes, retry_after: str = "", *, param: str = "messages") -> Fault:
    """The fault for an answer of another status than 200; `param` is what clients call the prompt."""
    return _fault(status, _told(_read(body)), retry_after, param)


def fault_of_frame(error: Any, *, param: str = "messages") -> Fault:
    """The fault for an error in the midst of a stream that began with 200."""
    told = _told({"error": error})
    if isinstance(told.code, int) and 400 <= told.code < 600:
        return _fault(told.code, told, "", param)
    return _fault(400 if told.type in _OURS else 500, told, "", param)


def _fault(status: int, told: _Told, retry_after: str, param: str) -> Fault:
    match status:
        case 400 | 413 | 422 if told.is_about_length:
            return Fault(
                ContextExceeded(
                    told.message or "the prompt does not fit the model's maximum context length",
                    prompt_tokens=told.prompt_tokens,
                    limit_tokens=told.ctx_tokens,
                    param=param,
                ),
                elsewhere=False,
                blames=False,
            )
        case 400 | 413 | 415 | 422:
            said = told.message or f"HTTP {status}"
            return Fault(
                InvalidRequest(f"the engine behind this server refused it: {said}"),
                elsewhere=False,
                blames=False,
            )
        case _ if status in (408, 425, 429) or told.code == _FULL_CODE:
            error = Overloaded(
                "the engine behind this server is full; try again soon", retry_after_s=_seconds(retry_after)
            )
            return Fault(error, blames=False)
        case 401 | 403:
            return broken("refused this server's key")
        case 404 | 405:
            return broken("has no such model, or no such API")
        case _ if 300 <= status < 400:
            return broken("sent this server elsewhere, where it does not go")
        case _ if status >= 500:
            return broken(f"failed (HTTP {status})")
        case _:
            return broken(f"answered with HTTP {status}")


def unreachable() -> Fault:
    """Nobody listens there, or nobody can be asked."""
    return broken("cannot be reached")


def hidden() -> Fault:
    """It has something against the request, and does not say what."""
    said = "ended its answer without a word, as it does where a prompt is too long for it"
    return Fault(UpstreamFailed(f"the engine behind this server {said}"), blames=False)


def none_left() -> EngineFailed:
    """No replica is in service."""
    return UpstreamFailed("none of the engines behind this server is in service")


def _seconds(retry_after: str) -> int:
    if retry_after.isascii() and retry_after.isdigit():
        return max(1, min(int(retry_after[:9]), MOST_RETRY_S))
    return RETRY_S


def _read(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None


def _told(body: Any) -> _Told:
    """Of OpenAI's shape, which llama-server and corral have; vLLM and SGLang leave `error` out."""
    if not isinstance(body, dict):
        return _Told()
    error = body.get("error", body)
    if isinstance(error, str):
        return _Told(_text(error))
    if not isinstance(error, dict):
        return _Told()
    code = error.get("code")
    return _Told(
        _text(error.get("message") or error.get("detail")),
        str(error.get("type") or "")[:MESSAGE_CHARS],
        code if isinstance(code, int | str) else None,
        count_of(error.get("n_prompt_tokens")) or 0,
        count_of(error.get("n_ctx")) or 0,
    )


def _text(message: object) -> str:
    return one_line(message[:MESSAGE_CHARS]) if isinstance(message, str) else ""


def count_of(value: object) -> int | None:
    """A number of tokens as an upstream says it; None for what cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_TOKENS:
        return None
    return value
