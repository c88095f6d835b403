"""One request, from acceptance to its one end: what happened to it, and what is known of it.

Its states and times are in `life`, its figures in `counts`. Three tell a record what happens, each what
it alone knows:

    the engine, by way of serving    observe, released
    serving                          prepared, admitted, ended_by
    http, by way of serving          writing, delivered, over

The first cause of its end is its outcome: a client that leaves because an operator stopped its request does
not make it `disconnected`. Only when it is settled (see `life`) is it known what was computed for nobody.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from corral.books.counts import Counts, Doing
from corral.books.lanes import Lanes
from corral.books.life import Happening, Life, State
from corral.books.outcome import Outcome, outcome_of
from corral.engine.contract import Waste
from corral.errors import InvalidRequest, code_of
from corral.events import (
    BlockClosed,
    BlockDelta,
    BlockKind,
    BlockOpened,
    Continued,
    Embedded,
    Event,
    Failed,
    Finished,
    Loading,
    Placed,
    Prefill,
    Queued,
    Sampled,
    Started,
    TakenBack,
)
from corral.request import GenerationRequest


@dataclass(frozen=True, slots=True)
class About:
    """Who asked, and by which API: what the engine does not need to know. `address` is never a key.

    `id` is the answer's own; `request_id` is what the client, or a proxy before it, calls the request, and
    `session` what it calls the conversation that it belongs to.
    """

    id: str
    api: str
    model: str
    streams: bool
    address: str
    request_id: str = ""
    session: str = ""


@dataclass(slots=True)
class Said:
    """One block of an answer, as far as it has come. Of a call it is the arguments, `name` is the tool."""

    kind: BlockKind
    name: str | None = None
    texts: list[str] = field(default_factory=list)


class Watcher(Protocol):
    """Who is told as it happens. None of these may block or raise."""

    def changed(self, record: "Record", *, at_once: bool) -> None:
        """Its counters moved or, `at_once`, its state did."""
        ...

    def said(self, record: "Record", choice: int, number: int, text: str) -> None:
        """More of the last block of `record.output[choice]`, its `number`th; where content is kept."""
        ...

    def drafted(self, record: "Record", choice: int, step: Sampled) -> None:
        """A step had a draft, where content is kept."""
        ...


class Tracer(Protocol):
    """Who writes down all that happens, where somebody wants that. None of these may block or raise."""

    def moved(self, record: "Record", state: State) -> None:
        """It has entered a state."""
        ...

    def observed(self, record: "Record", choice: int, events: list[Event]) -> None:
        """What the engine said of it in one step, as `Record.observe` is told."""
        ...


class Books(Protocol):
    """What a record needs of whoever keeps it."""

    now_s: Callable[[], float]
    """Monotonic."""
    unix_s: Callable[[], float]
    """The time of day."""
    keeps_content: bool
    watcher: Watcher | None
    tracer: Tracer | None
    lanes: Lanes

    def settle(self, record: "Record") -> None:
        """It is over, and the engine has let go of all of it."""
        ...


class Record:
    """One request. Everything here is synchronous and runs on the event loop."""

    __slots__ = (
        "_books",
        "_finished",
        "about",
        "continued_on",
        "counts",
        "draft",
        "error",
        "is_loading",
        "lanes",
        "life",
        "max_tokens",
        "outcome",
        "output",
        "param",
        "position",
        "prompt_tokens",
        "replicas",
        "request",
        "started_at",
        "status",
        "wasted",
    )

    def __init__(self, books: Books, about: About, request: GenerationRequest) -> None:
        self.about = about
        self.request = request
        self.prompt_tokens = 0
        """Known once it is prepared, as `max_tokens` is."""
        self.max_tokens = 0
        self.started_at = books.unix_s()
        self.life = Life(request.n, books.now_s)
        self.counts = Counts(request.n)
        self.position: int | None = None
        """Its place in line; 0 is next, None is not in line yet, or not any more."""
        self.is_loading = False
        """Its model is loaded, and it waits for that."""
        self.lanes: tuple[int, ...] = ()
        """The slots it has, numbered for people: the lowest free ones when it began."""
        self.replicas: dict[int, str] = {}
        """Which of several engines has each of its choices, or had it last."""
        self.continued_on: str | None = None
        """Of several engines the one that went on with an answer which had broken off at another."""
        self.outcome: Outcome | None = None
        self.error: str | None = None
        """The word for the error that ended it, if one did; see `errors.code_of`."""
        self.param: str | None = None
        """The field that was wrong, where it ended by being refused."""
        self.status: int | None = None
        """Of the HTTP response; None before it has begun."""
        self.wasted = Waste()
        self.draft: Sampled | None = None
        """The last step that had a draft; None where content is not kept."""
        self._books = books
        self._finished: dict[int, Finished] = {}
        self.output: list[list[Said]] | None = [[] for _ in range(request.n)] if books.keeps_content else None
        """What was said so far, by choice; None where content is not kept."""

    # What is known

    @property
    def has_begun(self) -> bool:
        """Whether a token was sampled."""
        return self.life.first_token_s is not None

    @property
    def has_ended(self) -> bool:
        """Whether the engine is done with it, or was told to be."""
        return self.life.ended_s is not None

    def is_finished(self, choice: int) -> bool:
        """Whether one of its answers is whole."""
        return choice in self._finished

    @property
    def doing(self) -> Doing | None:
        """What is done for it just now, if that is not to write a text."""
        if self.has_ended:
            return None
        if self.is_loading:
            return "loading"
        if self.request.embed is not None:
            return "embedding" if self.life.held else None
        return self.counts.doing

    @property
    def is_thought_cut(self) -> bool:
        """Whether a thought was ended before the model did, in a choice that has finished."""
        return any(finished.is_thought_cut for finished in self._finished.values())

    @property
    def finished_at(self) -> float:
        """The time of day at which it was over, or now."""
        return self.started_at + self.life.total_s

    @property
    def engine_phase(self) -> Literal["prefill", "decode"] | None:
        """What the engine does for it; one that was cancelled is there until the engine has let go of it."""
        if not self.life.held:
            return None
        return "decode" if self.has_begun else "prefill"

    @property
    def prefill_tokens_per_s(self) -> float | None:
        """Of the tokens really prefilled; 0 where the whole prompt was cached but for the last token."""
        if (prefill_s := self.life.prefill_s) is None:
            return None
        tokens = self.counts.prefilled_tokens
        return tokens / max(1e-9, prefill_s) if tokens > 1 else 0.0

    @property
    def decode_tokens_per_s(self) -> float | None:
        """After the first token, which is prefill's, until the engine ended or now."""
        decode_s, tokens = self.life.decode_s, self.counts.decoded_tokens
        return tokens / decode_s if decode_s and tokens > 0 else None

    # What happens

    def prepared(self, prompt_tokens: int, max_tokens: int) -> None:
        """Its prompt is written, and it stands in line."""
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.is_loading = False
        self._happened(Happening.PREPARED)

    def admitted(self) -> None:
        """It has its slots."""
        self.position = None
        self.lanes = self._books.lanes.take(self.request.n)
        self._happened(Happening.ADMITTED)

    def observe(self, choice: int, events: list[Event]) -> None:
        """What the engine said in one step, before its client hears of it."""
        if (tracer := self._books.tracer) is not None:
            tracer.observed(self, choice, events)
        watcher = self._books.watcher
        for event in events:
            match event:
                case Sampled():
                    self.counts.sampled(choice, event)
                    if event.draft and self._books.keeps_content:
                        self.draft = event
                        if watcher is not None:
                            watcher.drafted(self, choice, event)
                case BlockDelta():
                    if self.output is not None:
                        blocks = self.output[choice]
                        blocks[-1].texts.append(event.text)
                        if watcher is not None:
                            watcher.said(self, choice, len(blocks) - 1, event.text)
                case BlockOpened():
                    self.counts.opened(choice, event)
                    if self.output is not None:
                        self.output[choice].append(Said(event.kind, event.name))
                case BlockClosed():
                    self.counts.closed(choice, event)
                case Prefill():
                    self.counts.prefilled(choice, event)
                case Embedded():
                    self.counts.vectors += 1
                case Started():
                    self.prompt_tokens = event.prompt_tokens
                    self.counts.started(choice, event)
                    self._happened(Happening.FIRST_TOKEN)
                case Queued():
                    self.position = event.position
                case Loading():
                    self.is_loading = True
                case Placed(replica):
                    self.replicas[choice] = replica
                case Continued(replica):
                    self.continued_on = replica
                case TakenBack():
                    self.counts.taken_back(choice)
                case Finished():
                    if self.request.embed is None:
                        self.prompt_tokens = event.usage.prompt_tokens
                        self.counts.finished(choice, event.usage)
                    self._finished[choice] = event
                    if len(self._finished) == self.request.n:
                        self._engine_ended()
                case Failed(error):
                    if self.outcome is None:
                        self.error = code_of(error)
                        self.param = error.param if isinstance(error, InvalidRequest) else None
                    self.ended_by(outcome_of(error))
        if watcher is not None:
            watcher.changed(self, at_once=False)

    def answered(self, status: int) -> None:
        """The response begins, with this HTTP status."""
        self.status = status

    def writing(self, is_writing: bool) -> None:
        """A write to the client is under way, or has been taken."""
        if is_writing is not self.life.is_writing:
            self._happened(Happening.WRITE_BEGAN if is_writing else Happening.WRITE_TAKEN)

    def delivered(self) -> None:
        """The client has all of the answer, its end included."""
        self._happened(Happening.DELIVERED)

    def ended_by(self, outcome: Outcome) -> None:
        """Something other than the model ended it. The first cause stays."""
        if self.outcome is None:
            self.outcome = outcome
        self._engine_ended()

    def over(self) -> None:
        """The response is over, however."""
        if self.life.is_over:
            return
        if self.outcome is None:
            whole = self.life.is_delivered and len(self._finished) == self.request.n
            self.outcome = self._finished[0].reason if whole else "disconnected"
        self._engine_ended()
        self._happened(Happening.OVER)
        self._settle_if_done()

    def released(self, waste: Waste) -> None:
        """The engine let go of one of its sequences."""
        self._happened(Happening.RELEASED)
        self._books.lanes.give(self.lanes[self.life.held : self.life.held + 1])
        self.wasted += waste
        if (watcher := self._books.watcher) is not None:
            watcher.changed(self, at_once=True)
        self._settle_if_done()

    def _engine_ended(self) -> None:
        self.position = None
        self._happened(Happening.ENGINE_ENDED)

    def _happened(self, what: Happening) -> None:
        if not self.life.happened(what):
            return
        if (watcher := self._books.watcher) is not None:
            watcher.changed(self, at_once=True)
        if (tracer := self._books.tracer) is not None:
            tracer.moved(self, self.life.engine_state)

    def _settle_if_done(self) -> None:
        if self.life.is_settled:
            self._books.settle(self)
