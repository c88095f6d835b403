"""What serving needs of an engine, whatever stands behind it: a model in this process, or a server elsewhere.

    engine.check(request)                                   # refused at once, if that is plain to see
    prepared = await engine.prepare(request, client=key)    # its prompt is written, nothing runs yet
    handle = engine.submit(prepared, choice, sink, max_tokens=n)
    ...                                                     # sink.events(...) as it happens
    handle.cancel()                                         # or nothing: the engine ends it by itself
                                                            # sink.released(...): once, and last

Rules for who writes one
------------------------
- Everything but `run` and `prepare` is synchronous, is called on the event loop's thread, and never waits.
- The caller holds a slot for every sequence it submits, and gives it back when `released` comes. So an engine
  never has more than `capacity.slots` sequences, and never queues. Where fewer slots are left than
  sequences run, these go on, and nothing is submitted until there is room again.
- `released` comes exactly once per accepted `submit`, after the last events, also for a sequence that was
  cancelled, that failed, or whose engine died. It means that nothing is computed for it any more: a cancel is
  not a promise to stop later.
- A sequence that ends by itself says so in exactly one Finished or Failed before it is released. One that was
  cancelled may be released without a word.
- Once `run` is cancelled nobody is told anything any more.
- Tokens are counted here and never named: what a token is, is the engine's own affair. One that can tell, to
  clients that want to know, has `texts`.
- A request whose texts are to be embedded takes one sequence like any other; its `Embedded` events come in
  any order. An engine that does so says what its vectors are (`embedding`). Serving refuses such requests
  where that is None, unless `check` does so with better words.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import trio

from corral.errors import EngineFailed
from corral.events import Event
from corral.request import GenerationRequest


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much an engine takes at a time.

    `slots` sequences may run at the same time. All of them together hold at most `ctx_tokens`, and one
    request `request_ctx_tokens`, prompt and output together. No prompt of more than `prompt_bytes` of text
    fits; None where the engine cannot tell.
    """

    slots: int
    ctx_tokens: int
    request_ctx_tokens: int
    prompt_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Waste:
    """What of a sequence's work was in vain, in tokens; of an engine elsewhere, in seconds of its slot.

    `decoded_after_cancel` were sampled when nobody wanted them any more. Of a prefill that was cut short,
    `prefill_kept` stay as a prefix for the next one and `prefill_dropped` were in the aborted step. For
    `residual_s` an upstream was seen to go on for a sequence that was cancelled. `thrown_away` were sampled
    for an answer that was taken back, and is said anew.
    """

    decoded_after_cancel: int = 0
    prefill_dropped: int = 0
    prefill_kept: int = 0
    residual_s: float = 0.0
    thrown_away: int = 0

    def __add__(self, other: "Waste") -> "Waste":
        return Waste(
            self.decoded_after_cancel + other.decoded_after_cancel,
            self.prefill_dropped + other.prefill_dropped,
            self.prefill_kept + other.prefill_kept,
            self.residual_s + other.residual_s,
            self.thrown_away + other.thrown_away,
        )


@dataclass(frozen=True, slots=True)
class Holdings:
    """What an engine's caches hold now: tokens of the KV cache, and bytes of the host's memory.

    Of the KV cache `running_tokens` are of sequences that run, and `kept_tokens`, which take `kept_bytes`,
    only of prefixes that are kept. Prefixes that have left it take `saved_bytes`, of at most
    `saved_limit_bytes`.
    """

    running_tokens: int
    kept_tokens: int
    kept_bytes: int
    saved_bytes: int
    saved_limit_bytes: int


@dataclass(frozen=True, slots=True)
class Embedding:
    """What an engine's vectors are: of so many `dimensions`, from inputs of at most `input_tokens` each.

    `pooling` is how the vectors of a text's tokens become one: their mean, the first's (cls), or the last's.
    An engine whose model `reads_only` does nothing else, and refuses to generate.
    """

    dimensions: int
    input_tokens: int
    pooling: str
    reads_only: bool = False


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One of several engines behind one, as of now, for people.

    It has `in_flight` of its `slots`, with `work_tokens` left to do, as routing counts. Of the `served`
    sequences `affinity_hits` had a beginning that it had computed before. One that is `out` was given up
    `openings` times, the last time for `reason`, at `out_since` (the time of day). For `residual_s` it was
    seen to go on for sequences that had left.
    """

    name: str
    kind: str
    model: str
    state: Literal["in service", "draining", "out", "tried"]
    slots: int
    in_flight: int
    weight: float
    work_tokens: int
    served: int
    affinity_hits: int
    openings: int
    residual_s: float
    reason: str = ""
    out_since: float | None = None


@dataclass(frozen=True, slots=True)
class Residence:
    """Whether an engine's model is in memory, of which it takes `memory_bytes` there, about; and, of one that
    `failed` to get there, the `reason`. It is tried again when it is wanted."""

    state: Literal["loaded", "loading", "leaving", "not loaded", "failed"]
    memory_bytes: int
    reason: str = ""


class Prepared(Protocol):
    """A request that fits. What else an engine keeps in it is opaque."""

    @property
    def request(self) -> GenerationRequest: ...
    @property
    def prompt_tokens(self) -> int:
        """Exact, or a guess where only an upstream can count: then `Started` says how many there were."""
        ...

    @property
    def max_tokens(self) -> int:
        """Tokens that may follow the prompt: what was asked for, else what the context has room for. None
        follow texts that are embedded."""
        ...


class Sink(Protocol):
    """Who hears of one sequence. Called on the event loop's thread; may neither block nor raise."""

    def events(self, events: list[Event]) -> None:
        """What happened in one step, or in a few quick ones, in order."""
        ...

    def released(self, waste: Waste) -> None:
        """The slot is free; nothing follows."""
        ...


class Handle(Protocol):
    """A sequence that runs."""

    def cancel(self) -> None:
        """Stop it, in this step or before the next; `Sink.released` follows. Harmless once it has ended."""
        ...

    def end_thought(self) -> None:
        """Have it answer now, if it is thinking; harmless if it is not, or where the engine cannot."""
        ...


class Texts(Protocol):
    """What an engine can tell of texts and tokens, beside generating.

    What it costs is shared out between clients as `Engine.prepare` is, and `client` is who asks.
    """

    async def tokens(self, text: str, *, client: str, adds_special: bool, parses_control: bool) -> list[int]:
        """The tokens of a text; a checkpoint. Cancelling it leaves nothing behind. Raises InvalidRequest.

        It begins as prompts do where it `adds_special`, and names of control tokens in it become those where
        it `parses_control`.
        """
        ...

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """What each token stands for, of a control token its name. Raises InvalidRequest if there is none."""
        ...

    async def prompt(self, request: GenerationRequest, *, client: str) -> str:
        """What the model would be given of a conversation, as text; a checkpoint, and errors as `prepare`."""
        ...


class Engine(Protocol):
    """Something that generates."""

    @property
    def capacity(self) -> Capacity:
        """What it takes now. Where that can change, those in `on_capacity` are called when it has."""
        ...

    @property
    def on_capacity(self) -> list[Callable[[], None]]:
        """Called when `capacity.slots` has changed, with no checkpoint between. May not block or raise."""
        ...

    @property
    def residence(self) -> Residence | None:
        """Whether its model is in memory; None where that does not change, or is not known.

        While it is not, `capacity` is what is expected, and nothing is known that only the model can tell.
        """
        ...

    async def load(self) -> None:
        """Wait until its model is in memory; a checkpoint, cancel-safe: nothing but the wait ends.

        To be called before `prepare` and `texts` while `residence` says that it is not, by whoever has said
        that it is in use. Raises Overloaded or EngineFailed.
        """
        ...

    @property
    def texts(self) -> Texts | None:
        """What it can tell of texts and tokens; None if nothing."""
        ...

    @property
    def embedding(self) -> Embedding | None:
        """What vectors it makes of texts; None if none."""
        ...

    @property
    def holdings(self) -> Holdings | None:
        """What its caches hold; None where it cannot tell. For people: it may be a step old."""
        ...

    def cached_tokens(self, prepared: Prepared) -> int:
        """How many of a prompt's tokens need not be computed if it starts now, as far as is known. Quick."""
        ...

    @property
    def failure(self) -> EngineFailed | None:
        """Why nothing can be generated any more, if so."""
        ...

    @property
    def chat_template(self) -> str | None:
        """The template that its model's conversations are written by; None where the engine has none."""
        ...

    @property
    def learned(self) -> Mapping[str, Any] | None:
        """How its model writes calls and thoughts, as JSON, for people; None where the engine cannot tell."""
        ...

    @property
    def replicas(self) -> Sequence[ReplicaState]:
        """The engines behind it; none where it computes itself."""
        ...

    def set_draining(self, replica: str, is_draining: bool) -> bool:
        """Give a replica nothing more, or requests again; what it has goes on. False if there is none."""
        ...

    def step_age_s(self) -> float | None:
        """How long the running step has lasted, in seconds; None if nothing runs."""
        ...

    def check(self, request: GenerationRequest) -> None:
        """See whether a request can be done, as far as that takes no time.

        Raises InvalidRequest, or ContextExceeded for a prompt that cannot fit however it is written; and
        Overloaded if its model would have to be loaded, and there is no room.
        """
        ...

    async def prepare(self, request: GenerationRequest, *, client: str) -> Prepared:
        """Write and measure the prompt of a request that was checked; a checkpoint.

        Cancelling it leaves nothing behind. `client` is who asks: what this costs is shared out fairly
        between clients. Raises InvalidRequest, or ContextExceeded if prompt plus requested output cannot fit.
        """
        ...

    def submit(self, prepared: Prepared, choice: int, sink: Sink, *, max_tokens: int) -> Handle:
        """Start a sequence: number `choice` of the request's `n`, of at most `max_tokens`.

        The caller holds a free slot. Raises EngineFailed if the engine does not run; nothing follows then.
        """
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own whatever computes, until cancelled. Returns when nothing is computed any more."""
        ...

    def check_idle(self) -> None:
        """Assert that no sequence has left anything behind; for tests."""
        ...
