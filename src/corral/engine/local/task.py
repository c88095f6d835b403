"""What the two sides of the engine say to each other: tasks and commands in, deliveries out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from corral.decoding.answer import AnswerForm
from corral.engine.contract import Waste
from corral.engine.local.grammars.constraints import Constraint
from corral.engine.local.replays import Replays
from corral.errors import EngineFailed
from corral.events import Event
from corral.request import Sampling


@dataclass(frozen=True, slots=True)
class Task:
    """One sequence to generate: at least one prompt token, at least one token out, all inside the context."""

    key: int
    prompt: Sequence[int]
    sampling: Sampling
    max_tokens: int
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    includes_stop: bool = False
    shows_control: bool = False
    scores_prompt: bool = False
    form: AnswerForm | None = None
    """How the answer is read; None: it is text, whatever it looks like."""
    constraint: Constraint | None = None
    """What it must look like, once all thinking is over."""
    replays: Replays | None = None
    """Where it is remembered if it calls tools; None where it cannot."""
    thought: "ThoughtLimit | None" = None

    def is_last(self, token: int) -> bool:
        """Whether the request itself ends with this token."""
        return token in self.sampling.stop_tokens


@dataclass(frozen=True, slots=True)
class EmbedTask:
    """Inputs to make vectors of: at least one, of at least one token each, none longer than may be.

    Of a vector the first `dimensions` numbers are kept, and brought to length 1 again.
    """

    key: int
    inputs: Sequence[Sequence[int]]
    dimensions: int


@dataclass(frozen=True, slots=True)
class ThoughtLimit:
    """After `tokens` of thought, if that is a number, `closer` is said for the model; it never is empty.

    Where the answer must look like something, it is said in place of one of the `ends` of an answer, too.
    """

    tokens: int | None
    closer: tuple[int, ...]
    ends: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Submit:
    task: Task | EmbedTask


@dataclass(frozen=True, slots=True)
class Cancel:
    """`posted_s` is when the caller let go of the task, by perf_counter."""

    key: int
    posted_s: float


@dataclass(frozen=True, slots=True)
class EndThought:
    """Have a task answer now, if it is thinking."""

    key: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Forget everything and return."""


Command = Submit | Cancel | EndThought | Stop


@dataclass(slots=True)
class Delivery:
    """What one turn, or a few, produced: events by task key, and the keys whose slot is free again.

    `failure` says that the backend is lost, `has_recovered` that it works again.
    """

    events: list[tuple[int, list[Event]]] = field(default_factory=list)
    released: list[tuple[int, Waste]] = field(default_factory=list)
    failure: EngineFailed | None = None
    has_recovered: bool = False

    def __bool__(self) -> bool:
        return bool(self.events or self.released or self.failure or self.has_recovered)
