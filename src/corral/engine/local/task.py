"""What the two sides of the engine say to each other, and the worker's record of a running task."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

from corral.decoding import TextDecoder
from corral.engine.contract import Waste
from corral.engine.local.backend import Sampler
from corral.engine.local.drafts.lookup import PromptLookup
from corral.engine.local.scheduler import Sequence as Scheduled
from corral.errors import EngineFailed
from corral.events import BlockDelta, Event, Finished, FinishReason, Sampled, Started, Timings, Usage
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

    def is_last(self, token: int) -> bool:
        """Whether the request itself ends with this token."""
        return token in self.sampling.stop_tokens


@dataclass(frozen=True, slots=True)
class Submit:
    task: Task


@dataclass(frozen=True, slots=True)
class Cancel:
    """`posted_s` is when the caller let go of the task, by perf_counter."""

    key: int
    posted_s: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Forget everything and return."""


Command = Submit | Cancel | Stop


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

    @property
    def is_urgent(self) -> bool:
        """Whether there is more in it than further text of running tasks."""
        return bool(self.released or self.failure or self.has_recovered) or not all(
            isinstance(event, BlockDelta | Sampled) for _, events in self.events for event in events
        )

    def extend(self, later: "Delivery") -> None:
        """Append what a later turn produced; a task's events stay one list."""
        ours = dict(self.events)
        for key, events in later.events:
            if key in ours:
                ours[key].extend(events)
            else:
                self.events.append((key, events))
        self.released += later.released
        self.failure = later.failure or self.failure
        self.has_recovered |= later.has_recovered


class Running:
    """A task on the worker: its sequence, its sampler, its text, its counts. Only the worker touches it."""

    def __init__(self, task: Task, sequence: Scheduled, sampler: Sampler) -> None:
        self.task = task
        self.sequence = sequence
        self.sampler = sampler
        self.decoder = TextDecoder(task.stop, includes_stop=task.includes_stop)
        self.lookup = PromptLookup(sequence.tokens)
        self.stop_token: int | None = None
        self.completion_tokens = 0
        self.drafted_tokens = 0
        self.accepted_tokens = 0
        self.cached_tokens = 0
        self.aborted_tokens = 0
        self.submitted_s = perf_counter()
        self.first_token_s = 0.0
        self.last_token_s = 0.0

    def started(self) -> Started:
        """The prompt is in: note when, and how much of it had been there."""
        self.first_token_s = perf_counter()
        self.cached_tokens = self.sequence.cached_tokens
        return Started(self.sequence.prompt_tokens, self.cached_tokens)

    @property
    def tokens_left(self) -> int:
        """How many more tokens may be sampled."""
        return self.task.max_tokens - self.completion_tokens

    def finished(self, reason: FinishReason) -> Finished:
        """The last event of a task that ended as it should."""
        return Finished(
            reason=reason,
            stop_sequence=self.decoder.stopped,
            usage=Usage(
                prompt_tokens=self.sequence.prompt_tokens,
                cached_tokens=self.cached_tokens,
                completion_tokens=self.completion_tokens,
                drafted_tokens=self.drafted_tokens,
                accepted_tokens=self.accepted_tokens,
            ),
            timings=Timings(
                prefill_ms=1e3 * (self.first_token_s - self.submitted_s),
                decode_ms=1e3 * (perf_counter() - self.first_token_s),
            ),
            stop_token=self.stop_token,
        )

    def released(self, cancelled_s: float | None) -> Waste:
        """What was in vain, if it was cancelled at `cancelled_s`."""
        if cancelled_s is None:
            return Waste()
        computed = self.sequence.computed - self.sequence.cached_tokens
        return Waste(
            decoded_after_cancel=int(self.last_token_s > cancelled_s),
            prefill_dropped=self.aborted_tokens,
            prefill_kept=max(0, computed) if self.completion_tokens == 0 else 0,
        )
