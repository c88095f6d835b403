"""What a client asks for, in no dialect's terms. Dialects parse into this; the engine reads nothing else."""

from dataclasses import dataclass, field
from typing import Literal

import msgspec

GrammarKind = Literal["json_object", "json_schema", "regex", "choice", "lark", "gbnf"]
Role = Literal["system", "developer", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the assistant made earlier in the conversation. `arguments` is a JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. Several text parts arrive here joined by newlines.

    `reasoning` is what the assistant thought before it. `is_error` says that a tool's result is its failure.
    """

    role: Role
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str = ""
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call. `parameters` is its JSON Schema, unparsed."""

    name: str
    description: str
    parameters: msgspec.Raw


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which tools the answer may call, and whether it must: one of those `named`, or any if none is named."""

    mode: Literal["auto", "none", "required"] = "auto"
    named: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Thinking:
    """How the model shall think before it answers. None leaves it to the model's template.

    After `budget_tokens` of thought its end is forced, and the answer follows.
    """

    is_on: bool | None = None
    effort: str | None = None
    budget_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is picked. The defaults are llama.cpp's own (`common_params_sampling`).

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1, `min_p` 0 and the penalties at 1, 0 and 0 are off.
    `seed` None draws one at random. Penalties look back over `penalty_window_tokens` tokens.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_window_tokens: int = 64
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None

    @property
    def has_penalties(self) -> bool:
        return self.repeat_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0

    @property
    def is_greedy(self) -> bool:
        return self.temperature <= 0.0


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the answer must look like. `source` is what its kind calls for, as a text.

    `json_schema`: a JSON schema. `json_object`: nothing. `regex`: a regular expression that all of the
    answer matches. `choice`: a JSON array of strings. `lark`: llguidance's Lark. `gbnf`: llama.cpp's grammar.
    `param` is the request's field that asked for it.
    """

    kind: GrammarKind
    source: str
    param: str


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request: a conversation, how to continue it, and how often.

    `max_tokens` None means up to the end of the context. One that `is_clipped` is lowered to what the context
    has room for, where others are refused. `top_logprobs` None asks for none, 0 for the chosen token's only.
    A last message of the assistant is continued, not answered. `template_kwargs` is a JSON object for the
    model's template.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    n: int = 1
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    calls_in_parallel: bool = True
    thinking: Thinking = field(default_factory=Thinking)
    grammar: Grammar | None = None
    template_kwargs: msgspec.Raw | None = None
    is_clipped: bool = False
