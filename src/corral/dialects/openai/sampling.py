"""How to pick and when to end, as OpenAI's text APIs say it, and as other servers have extended that.

Where two fields mean the same they may both be given, if they agree. A whole number may be written as 150.0.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from corral.errors import InvalidRequest
from corral.request import Dry, Mirostat, Sampling

_MOST: Final = 2**31 - 1
_Count = Annotated[int, Meta(ge=0, le=_MOST)] | Annotated[float, Meta(ge=0, le=_MOST)]
_CountOrAll = Annotated[int, Meta(ge=-1, le=_MOST)] | Annotated[float, Meta(ge=-1, le=_MOST)]
_Limit = Annotated[int, Meta(ge=-2, le=_MOST)] | Annotated[float, Meta(ge=-2, le=_MOST)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Repeat = Annotated[float, Meta(gt=0, le=10)]
_Token = Annotated[int, Meta(ge=0, le=_MOST)]  # a llama_token is 32 bits
_Bias = Annotated[float, Meta(ge=-100, le=100)]
_Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Stop = Annotated[
    str, Meta(min_length=1, max_length=256)
]  # the stop finder's set-up takes time per character
_Breaker = Annotated[str, Meta(min_length=1, max_length=10)]  # of which llama.cpp looks at 40 bytes

SAME: Final = ("temperature", "top_p", "min_p", "typical_p", "xtc_probability", "xtc_threshold")
"""What goes into Sampling as it is, under the same name."""
LIMITS: Final = ("max_completion_tokens", "max_tokens", "n_predict", "num_predict")


class SamplingFields(msgspec.Struct):
    """Fields of a body that say how to pick tokens and when to end; all may be absent, and null means so."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    dynatemp_range: Annotated[float, Meta(ge=0, le=2)] | None = None
    dynatemp_exponent: Annotated[float, Meta(ge=0, le=10)] | None = None
    top_p: _Share | None = None
    top_k: _CountOrAll | None = None
    min_p: _Share | None = None
    typical_p: _Share | None = None
    top_n_sigma: Annotated[float, Meta(ge=-1, le=100)] | None = None
    xtc_probability: _Share | None = None
    xtc_threshold: _Share | None = None
    repeat_penalty: _Repeat | None = None
    repetition_penalty: _Repeat | None = None
    repeat_last_n: _CountOrAll | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    dry_multiplier: Annotated[float, Meta(ge=0, le=100)] | None = None
    dry_base: Annotated[float, Meta(ge=0, le=10)] | None = None
    dry_allowed_length: _Count | None = None
    dry_penalty_last_n: _CountOrAll | None = None
    dry_sequence_breakers: Annotated[list[_Breaker], Meta(max_length=8)] | None = None
    mirostat: Literal[0, 1, 2] | None = None
    mirostat_tau: Annotated[float, Meta(ge=0, le=100)] | None = None
    mirostat_eta: Annotated[float, Meta(ge=0, le=10)] | None = None
    logit_bias: dict[_Token, _Bias] | None = None
    seed: _Seed | float | None = None
    max_tokens: _Limit | None = None
    max_completion_tokens: _Limit | None = None
    n_predict: _Limit | None = None
    num_predict: _Limit | None = None
    stop: _Stop | Annotated[list[_Stop], Meta(max_length=16)] | None = None
    stop_token_ids: Annotated[list[_Token], Meta(max_length=64)] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: _Count | None = None
    skip_special_tokens: bool | None = None


def sampling_of(wire: SamplingFields) -> Sampling:
    """What the fields ask for; raises InvalidRequest."""
    given: dict[str, object] = {name: value for name in SAME if (value := getattr(wire, name)) is not None}
    if wire.dynatemp_range is not None:
        given["temperature_range"] = wire.dynatemp_range
    if wire.dynatemp_exponent is not None:
        given["temperature_exponent"] = wire.dynatemp_exponent
    if wire.top_k is not None:
        given["top_k"] = max(whole(wire.top_k, "top_k"), 0)
    if wire.top_n_sigma is not None:
        given["top_n_sigma"] = max(wire.top_n_sigma, 0.0)
    given |= _penalties(wire)
    return Sampling(
        **given,  # type: ignore[arg-type]  # each under its own name
        given=frozenset(given),
        dry=_dry(wire),
        mirostat=_mirostat(wire),
        logit_bias=tuple((wire.logit_bias or {}).items()),
        stop_tokens=tuple(wire.stop_token_ids or ()),
        min_tokens=whole(wire.min_tokens or 0, "min_tokens"),
        ignores_end=bool(wire.ignore_eos),
        seed=_seed(wire),
    )


def max_tokens_of(wire: SamplingFields) -> int | None:
    """How long the answer may be; None, which -1 and -2 say too, means to the end of the context."""
    name, limit = agreed(wire, LIMITS)
    if limit is None or limit < 0:
        return None
    if limit == 0:
        raise InvalidRequest(f"Invalid '{name}': expected at least 1, or -1 for as many as fit.", param=name)
    return limit


def stop_of(wire: SamplingFields) -> tuple[str, ...]:
    if isinstance(wire.stop, str):
        return (wire.stop,)
    return tuple(wire.stop or ())


def whole(value: float, param: str) -> int:
    """A number that must be whole, however it was written; raises InvalidRequest."""
    if isinstance(value, float) and not value.is_integer():
        raise InvalidRequest(f"Invalid '{param}': expected `int`, got {value}.", param=param)
    return int(value)


def agreed(wire: msgspec.Struct, names: tuple[str, ...]) -> tuple[str, int | None]:
    """The first given of fields that mean the same, and what all say; InvalidRequest if they differ."""
    given = [(name, whole(value, name)) for name in names if (value := getattr(wire, name)) is not None]
    if not given:
        return names[0], None
    (first, wanted), *others = given
    for name, value in others:
        if value != wanted:
            message = f"'{name}' is another name of '{first}': they cannot differ."
            raise InvalidRequest(message, param=name)
    return first, wanted


def _penalties(wire: SamplingFields) -> dict[str, object]:
    penalties: dict[str, object] = {}
    for name in ("frequency_penalty", "presence_penalty", "repeat_penalty"):
        if (value := getattr(wire, name)) is not None:
            penalties[name] = value
    if wire.repeat_last_n is not None:
        window_tokens = whole(wire.repeat_last_n, "repeat_last_n")
        penalties["penalty_window_tokens"] = None if window_tokens < 0 else window_tokens
    if wire.repetition_penalty is not None and wire.repetition_penalty != 1.0:
        if wire.repeat_penalty is not None or wire.repeat_last_n is not None:
            what = "'repetition_penalty' looks over everything: it cannot go with 'repeat_penalty'."
            raise InvalidRequest(what, param="repetition_penalty")
        penalties |= {"repeat_penalty": wire.repetition_penalty, "penalty_window_tokens": None}
    return penalties


def _dry(wire: SamplingFields) -> Dry | None:
    if not wire.dry_multiplier:
        return None
    given: dict[str, object] = {}
    if wire.dry_base is not None and wire.dry_base >= 1.0:  # as in llama.cpp, less means the default
        given["base"] = wire.dry_base
    if wire.dry_allowed_length is not None:
        given["allowed_tokens"] = whole(wire.dry_allowed_length, "dry_allowed_length")
    if wire.dry_penalty_last_n is not None:
        window_tokens = whole(wire.dry_penalty_last_n, "dry_penalty_last_n")
        if window_tokens == 0:
            return None
        given["window_tokens"] = None if window_tokens < 0 else window_tokens
    if wire.dry_sequence_breakers is not None:
        given["breakers"] = tuple(wire.dry_sequence_breakers)
    return Dry(wire.dry_multiplier, **given)  # type: ignore[arg-type]  # each under its own name


def _mirostat(wire: SamplingFields) -> Mirostat | None:
    if not wire.mirostat:
        return None
    given = {
        name: value
        for name, value in (("tau", wire.mirostat_tau), ("eta", wire.mirostat_eta))
        if value is not None
    }
    return Mirostat(wire.mirostat, **given)


def _seed(wire: SamplingFields) -> int | None:
    """-1 draws one at random, as in llama.cpp and Ollama."""
    if wire.seed is None or wire.seed == -1:
        return None
    seed = whole(wire.seed, "seed")
    if not -(2**63) <= seed < 2**63:
        raise InvalidRequest("Invalid 'seed': expected 64 bits.", param="seed")
    return seed
