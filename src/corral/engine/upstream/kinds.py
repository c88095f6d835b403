"""What servers of a kind take beside OpenAI's fields, and what they show of their slots.

A field that a client gave and a kind does not have is refused, by the name that the client knows. What a
client did not give is not sent: then the upstream's own default holds, such as what its model's maker
advises.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from corral.request import GrammarKind

KindName = Literal["llama-server", "llama-cpp-python", "vllm", "sglang", "corral", "openai"]

_OPENAI: Final = {
    "temperature": "temperature",
    "top_p": "top_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "logit_bias": "logit_bias",
    "seed": "seed",
}
_LLAMA: Final = _OPENAI | {
    "temperature_range": "dynatemp_range",
    "temperature_exponent": "dynatemp_exponent",
    "top_k": "top_k",
    "top_n_sigma": "top_n_sigma",
    "typical_p": "typical_p",
    "min_p": "min_p",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "repeat_penalty": "repeat_penalty",
    "penalty_window_tokens": "repeat_last_n",
    "dry": "dry_multiplier",
    "mirostat": "mirostat",
    "ignores_end": "ignore_eos",
}
_LLAMA_CPP_PYTHON: Final = _OPENAI | {
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repeat_penalty",
    "min_tokens": "min_tokens",
}
_ENGINES: Final = _OPENAI | {
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "stop_tokens": "stop_token_ids",
    "min_tokens": "min_tokens",
    "ignores_end": "ignore_eos",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """`sampling` are the fields of `Sampling` that it takes, by its own names for them.

    `thinking` is what it calls a budget of thoughts, and `text_fields` what else of the request it has.
    """

    name: KindName
    sampling: Mapping[str, str]
    grammars: frozenset[GrammarKind] = frozenset({"json_object", "json_schema"})
    thinking: str | None = None
    has_template_kwargs: bool = True
    includes_stop: str | None = None
    shows_control: bool = False
    continues_by: Mapping[str, bool] | None = None
    """Fields that have a last message of the assistant continued; None where none are known."""
    names_tool: bool = True
    """Whether it can be told which tool must be called, and not only that one must."""
    has_completions: bool = True
    tells_progress: bool = False
    tells_usage_early: bool = False
    reasoning: str | None = "reasoning_content"
    """What it calls the thoughts of an earlier turn."""
    health: str = "/health"
    """What is asked of one that is silent: an answer says that somebody is there, and no more."""
    slots: str | None = None
    """Where it says how many sequences it computes just now."""
    aborts_at: str | None = None
    runs_one: bool = False
    """It computes one request at a time, and the next one ends it."""
    takes_request_id: bool = True
    """It minds no X-Request-Id, whatever that is; else it refuses requests for one that is no UUID."""
    hides_errors: bool = False
    """Where a prompt is too long, its stream has an end and nothing else."""


KINDS: Final[Mapping[KindName, Kind]] = {
    kind.name: kind
    for kind in (
        Kind(
            "llama-server",
            _LLAMA,
            frozenset({"json_object", "json_schema", "gbnf"}),
            thinking="thinking_budget_tokens",
            continues_by={"continue_final_message": True, "add_generation_prompt": False},
            names_tool=False,
            tells_progress=True,
            slots="/slots",
        ),
        Kind(
            "llama-cpp-python",
            _LLAMA_CPP_PYTHON,
            frozenset({"json_object", "json_schema", "gbnf"}),
            has_template_kwargs=False,
            reasoning=None,
            health="/v1/models",
            runs_one=True,
            takes_request_id=False,
            hides_errors=True,
        ),
        Kind(
            "vllm",
            _ENGINES,
            frozenset({"json_object", "json_schema", "regex", "choice", "lark", "gbnf"}),
            thinking="thinking_token_budget",
            includes_stop="include_stop_str_in_output",
            shows_control=True,
            continues_by={"continue_final_message": True, "add_generation_prompt": False},
            tells_usage_early=True,
            slots="/metrics",
        ),
        Kind(
            "sglang",
            _ENGINES,
            frozenset({"json_object", "json_schema", "regex", "gbnf"}),
            includes_stop="no_stop_trim",
            shows_control=True,
            continues_by={"continue_final_message": True},
            slots="/metrics",
            aborts_at="/abort_request",
        ),
        Kind(
            "corral",
            _LLAMA | _ENGINES | {"repeat_penalty": "repeat_penalty"},
            frozenset({"json_object", "json_schema", "regex", "choice", "lark", "gbnf"}),
            thinking="thinking_token_budget",
            includes_stop="include_stop_str_in_output",
            shows_control=True,
            continues_by={},
            tells_progress=True,
            slots="/metrics",
        ),
        Kind(
            "openai",
            _OPENAI,
            has_template_kwargs=False,
            reasoning=None,
            health="/v1/models",
        ),
    )
}
