"""What a client asks for, in no dialect's terms. Dialects parse into this; the engine reads nothing else."""

from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Literal, get_args

import msgspec

GrammarKind = Literal["json_object", "json_schema", "regex", "choice", "lark", "gbnf"]
HeldTo = GrammarKind | Literal["tools"]
HELD_TO: tuple[HeldTo, ...] = (*get_args(GrammarKind), "tools")
EMBED_TOKENS = 300_000
"""Of all texts of one request that are to be embedded together, as with OpenAI."""
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
    `verbatim` is the turn of an assistant as this engine's model wrote it: text, then in turns the name of a
    control token and text. Only the engine knows it.
    """

    role: Role
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str = ""
    is_error: bool = False
    verbatim: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RawPrompt:
    """A prompt that is no conversation: a text, or `tokens` exactly as they are.

    A text begins with the token that the model wants at every beginning. Names of control tokens in it are
    words, unless it `parses_control`. With a `suffix`, what stands between the two is wanted.
    """

    text: str = ""
    tokens: tuple[int, ...] | None = None
    suffix: str | None = None
    parses_control: bool = False


@dataclass(frozen=True, slots=True)
class Embed:
    """Texts of which vectors are wanted, and no answer: of each the first `dimensions` numbers, None: all.

    A text is read as whoever trained the model wants it, between the tokens that belong around it. Tokens are
    taken exactly as they are.
    """

    inputs: tuple[RawPrompt, ...]
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call. `parameters` is its JSON Schema, unparsed.

    The arguments of one that `is_strict` follow it whenever it is called. With `input` the function takes one
    free text by that name, in a language of its own.
    """

    name: str
    description: str
    parameters: msgspec.Raw
    is_strict: bool = False
    input: "Grammar | None" = None

    @property
    def is_held(self) -> bool:
        """Whether what it is called with is held to something, even where no call has to come."""
        return self.is_strict or self.input is not None


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
class Dry:
    """A penalty on going on as an earlier passage did ("don't repeat yourself"); defaults as llama.cpp's.

    A token that would extend a repetition of more than `allowed_tokens` loses
    `multiplier` * `base` ** (length - `allowed_tokens`). Repetitions do not reach over a breaker.
    """

    multiplier: float
    base: float = 1.75
    allowed_tokens: int = 2
    window_tokens: int | None = 64
    """How far it looks back; None: over all there is."""
    breakers: tuple[str, ...] = ("\n", ":", '"', "*")


@dataclass(frozen=True, slots=True)
class Mirostat:
    """Picks such that the text stays as surprising as `tau`, learning by `eta` (Basu et al. 2020)."""

    version: Literal[1, 2]
    tau: float = 5.0
    eta: float = 0.1


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is picked. The defaults are llama.cpp's own (`common_params_sampling`).

    `temperature` 0 takes the likeliest that bias and penalties leave. `top_k` 0, `top_n_sigma` 0, `typical_p`
    1, `top_p` 1, `min_p` 0, `xtc_probability` 0, `temperature_range` 0 and the penalties at 1, 0, 0 are off.
    Penalties look back over `penalty_window_tokens`, None: over all there is. With `mirostat` nothing else
    but the temperature, the biases and the bans has a say. `seed` has 64 bits; None draws one at random.

    An answer ends with the model's own end or with one of `stop_tokens`, and neither is picked in the first
    `min_tokens`; where it `ignores_end`, the model's own never is.
    """

    temperature: float = 0.8
    temperature_range: float = 0.0
    temperature_exponent: float = 1.0
    top_k: int = 40
    top_n_sigma: float = 0.0
    typical_p: float = 1.0
    top_p: float = 0.95
    min_p: float = 0.05
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_window_tokens: int | None = 64
    dry: Dry | None = None
    mirostat: Mirostat | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop_tokens: tuple[int, ...] = ()
    min_tokens: int = 0
    ignores_end: bool = False
    seed: int | None = None
    given: frozenset[str] = field(default=frozenset(), compare=False)
    """The names of those that the client itself chose; an upstream has defaults of its own for the others."""

    @property
    def has_penalties(self) -> bool:
        return self.repeat_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0

    @property
    def is_greedy(self) -> bool:
        return self.temperature <= 0.0

    def of_choice(self, choice: int) -> "Sampling":
        """That of one of several answers to one request: choice 0 is as if it were the only one."""
        if self.seed is None or choice == 0:
            return self
        digest = blake2b(f"{self.seed} {choice}".encode(), digest_size=8).digest()
        return replace(self, seed=int.from_bytes(digest))


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
    """One request: a conversation or, instead of it, a raw `prompt`; how to continue it, and how often. Or
    texts to `embed`: then nothing is generated, and nothing else here but the `priority` has a meaning.

    `max_tokens` None means up to the end of the context. One that `is_clipped` is lowered to what the context
    has room for, where others are refused. `top_logprobs` None asks for none, 0 for the chosen token's only;
    one that `scores_prompt` asks for those of the prompt's tokens too.
    A text that `includes_stop` ends with the stop string that ended it; one that `shows_control` has the
    names of control tokens in it. A last message of the assistant is continued, not answered.
    `template_kwargs` is the text of a JSON object for the model's template. Of one client's requests that
    wait the one of the lowest `priority` goes first. Those of one `session` are best served where the last
    one was. Of one that `is_collected` the client gets nothing before the answer is whole: so it may be
    taken back.
    """

    messages: tuple[Message, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    includes_stop: bool = False
    shows_control: bool = False
    top_logprobs: int | None = None
    n: int = 1
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    calls_in_parallel: bool = True
    thinking: Thinking = field(default_factory=Thinking)
    grammar: Grammar | None = None
    template_kwargs: str | None = None
    is_clipped: bool = False
    priority: int = 0
    prompt: RawPrompt | None = None
    scores_prompt: bool = False
    embed: Embed | None = None
    session: str | None = field(default=None, compare=False)
    is_collected: bool = field(default=False, compare=False)

    @property
    def held_to(self) -> HeldTo | None:
        """What the answer, or the calls in it, must look like; None: they may look as they like."""
        if self.grammar is not None:
            return self.grammar.kind
        if not self.tools or self.tool_choice.mode == "none":
            return None
        must = self.tool_choice.mode == "required"
        return "tools" if must or any(tool.is_held for tool in self.tools) else None

    @property
    def prompt_param(self) -> str:
        """What the prompt is called, where a field is at fault."""
        if self.embed is not None:
            return "input"
        return "messages" if self.prompt is None else "prompt"
