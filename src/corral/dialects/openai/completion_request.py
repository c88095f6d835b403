"""Requests of `POST /v1/completions`, parsed. `completion_fields` says what becomes of each field.

`null` means absent. Unknown fields pass. Every prompt becomes a request of its own.

Sources: OpenAI's API reference, https://platform.openai.com/docs/api-reference/completions/create.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from corral.dialects.openai.completion_fields import COMPLETION_REFUSED
from corral.dialects.openai.sampling import (
    LIMITS,
    agreed,
    max_tokens_of,
    sampling_of,
    stop_of,
    whole,
)
from corral.dialects.openai.structure import GrammarFields, grammar_of
from corral.dialects.wire import decode
from corral.errors import InvalidRequest
from corral.request import GenerationRequest, RawPrompt

DEFAULT_MAX_TOKENS: Final = 16

_Token = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Choices = Annotated[int, Meta(ge=1, le=128)] | Annotated[float, Meta(ge=1, le=128)]


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


if TYPE_CHECKING:

    class _Refused(GrammarFields):
        """Fields whose effect corral does not have, of any type."""

else:
    _Refused = msgspec.defstruct(
        "_Refused", [(name, object, None) for name in COMPLETION_REFUSED], bases=(GrammarFields,)
    )


class CompletionBody(_Refused, kw_only=True):
    """The body as it came, every field of the right type and in its range."""

    prompt: str | Annotated[list[str | _Token | list[_Token]], Meta(min_length=1)]
    model: str | None = None
    suffix: str | None = None
    parse_special: bool | None = None
    echo: bool | None = None
    n: _Choices | None = None
    n_cmpl: _Choices | None = None
    best_of: _Choices | None = None
    no_stop_trim: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | Annotated[float, Meta(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    return_progress: bool | None = None
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None


_decoder: Final = msgspec.json.Decoder(CompletionBody)


def read_completion(body: bytes) -> CompletionBody:
    """Read a request body; raises InvalidRequest with the `param` OpenAI would name."""
    wire = decode(_decoder, body)
    for name, field in COMPLETION_REFUSED.items():
        value = getattr(wire, name)
        if value is not None and value not in field.unless:
            raise InvalidRequest(f"'{name}' is not supported by this server.", param=name)
    if wire.stream and candidates_of(wire) > choices_of(wire):
        raise InvalidRequest("A stream has no 'best_of'.", param="best_of")
    return wire


def generation_requests(wire: CompletionBody) -> tuple[GenerationRequest, ...]:
    """What a body asks for, one request per prompt; raises InvalidRequest."""
    limit = 1 if is_only_scored(wire) else max_tokens_of(wire)
    is_default = agreed(wire, LIMITS)[1] is None
    candidates = candidates_of(wire)
    has_to_rank = candidates > choices_of(wire)
    top_logprobs = whole(wire.logprobs, "logprobs") if wire.logprobs is not None else None
    first = GenerationRequest(
        sampling=sampling_of(wire),
        max_tokens=DEFAULT_MAX_TOKENS if is_default else limit,
        is_clipped=is_default,
        stop=stop_of(wire),
        includes_stop=bool(wire.include_stop_str_in_output or wire.no_stop_trim),
        shows_control=wire.skip_special_tokens is False,
        top_logprobs=0 if top_logprobs is None and has_to_rank else top_logprobs,
        n=candidates,
        scores_prompt=scores_prompt(wire),
        grammar=grammar_of(wire),
        priority=wire.priority or 0,
    )
    return tuple(replace(first, prompt=prompt) for prompt in _prompts(wire))


def scores_prompt(wire: CompletionBody) -> bool:
    """Whether the log probabilities of the prompt's own tokens are wanted."""
    return bool(wire.echo) and wire.logprobs is not None


def is_only_scored(wire: CompletionBody) -> bool:
    """Whether nothing but those is wanted: no token. The engine makes one, of which nothing is said."""
    return scores_prompt(wire) and agreed(wire, LIMITS)[1] == 0


def choices_of(wire: CompletionBody) -> int:
    """How many answers come of each prompt; raises InvalidRequest."""
    return agreed(wire, ("n", "n_cmpl"))[1] or 1


def candidates_of(wire: CompletionBody) -> int:
    """How many are generated of each prompt; raises InvalidRequest."""
    choices = choices_of(wire)
    candidates = choices if wire.best_of is None else whole(wire.best_of, "best_of")
    if candidates < choices:
        raise InvalidRequest("'best_of' must be at least 'n'.", param="best_of")
    return candidates


def wants_usage(wire: CompletionBody) -> bool:
    """Whether a stream ends with a chunk that counts tokens; raises InvalidRequest."""
    options = wire.stream_options
    if options is None:
        return False
    if not wire.stream:
        raise InvalidRequest("'stream_options' needs 'stream' to be true.", param="stream_options")
    if options.include_obfuscation:
        param = "stream_options.include_obfuscation"
        raise InvalidRequest(f"'{param}' is not supported by this server.", param=param)
    return bool(options.include_usage)


def _prompts(wire: CompletionBody) -> Sequence[RawPrompt]:
    given: Sequence[str | int | list[int]] = [wire.prompt] if isinstance(wire.prompt, str) else wire.prompt
    if all(isinstance(part, int) for part in given):
        return [_prompt(wire, list(given), "prompt")]  # type: ignore[arg-type]  # they are all tokens
    prompts = []
    for number, part in enumerate(given):
        if isinstance(part, int):
            raise InvalidRequest("'prompt' is a list of texts, or of token ids, not of both.", param="prompt")
        prompts.append(_prompt(wire, part, f"prompt[{number}]"))
    return prompts


def _prompt(wire: CompletionBody, given: str | list[int], param: str) -> RawPrompt:
    if isinstance(given, str):
        return RawPrompt(given, suffix=wire.suffix or None, parses_control=bool(wire.parse_special))
    if not given:
        raise InvalidRequest(f"'{param}' is empty.", param=param)
    if wire.suffix:
        raise InvalidRequest("'suffix' cannot go with a prompt of token ids.", param="suffix")
    return RawPrompt(tokens=tuple(given))
