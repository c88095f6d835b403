"""What is known of every request, running and finished, and of those that were refused: the one source of
/status, /metrics and the log.

Everything here is synchronous and runs on the event loop. With no watcher, an event costs one comparison.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from corral.books.lanes import Lanes
from corral.books.outcome import Outcome
from corral.books.record import About, Record, Tracer, Watcher
from corral.engine.contract import Waste
from corral.request import GenerationRequest, HeldTo

BAD_REQUEST: Final = 400
"""The status of what is refused by its prompt, in every API."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that was never accepted: what was asked, of whom it came, and why it was refused. No
    content."""

    id: str
    address: str
    method: str
    path: str
    status: int
    code: str
    param: str | None


@dataclass(frozen=True, slots=True)
class Tokens:
    """What was computed and reused, in tokens, and what it made; `prefilled` are those prompts' computed."""

    prompt: int = 0
    cached: int = 0
    prefilled: int = 0
    completion: int = 0
    drafted: int = 0
    accepted: int = 0
    reasoning: int = 0
    calls: int = 0
    vectors: int = 0

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.prefilled + other.prefilled,
            self.completion + other.completion,
            self.drafted + other.drafted,
            self.accepted + other.accepted,
            self.reasoning + other.reasoning,
            self.calls + other.calls,
            self.vectors + other.vectors,
        )

    @classmethod
    def of(cls, record: Record) -> "Tokens":
        """Those of one request so far: none of them ever gets less."""
        counts = record.counts
        return cls(
            record.prompt_tokens,
            counts.cached_tokens or 0,
            counts.prefilled_tokens,
            counts.completion_tokens,
            counts.drafted_tokens,
            counts.accepted_tokens,
            counts.reasoning_tokens,
            counts.calls,
            counts.vectors,
        )


@dataclass(frozen=True, slots=True)
class Share:
    """One model's part of all that is settled."""

    requests: int = 0
    tokens: Tokens = Tokens()


@dataclass(slots=True)
class Totals:
    """Over all settled requests, and over all refusals: those that were refused when their prompt was
    written are both."""

    by_outcome: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    refused: Counter[tuple[int, str]] = field(default_factory=Counter)
    """By HTTP status and code."""
    tokens: Tokens = Tokens()
    """Of settled requests; those of all so far are the ledger's `tokens`."""
    by_model: dict[str, Share] = field(default_factory=dict)
    with_tools: int = 0
    held_to: Counter[HeldTo] = field(default_factory=Counter)
    """Requests whose answers, or calls, had to look like something."""
    wasted: dict[Outcome, Waste] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """One more settled request."""
        outcome = record.outcome or "failed"
        self.by_outcome[record.about.api, outcome] += 1
        if outcome == "refused" and record.error is not None:
            self.refused[BAD_REQUEST, record.error] += 1
        tokens = Tokens.of(record)
        self.tokens += tokens
        share = self.by_model.get(record.about.model, Share())
        self.by_model[record.about.model] = Share(share.requests + 1, share.tokens + tokens)
        self.with_tools += bool(record.request.tools)
        if (held_to := record.request.held_to) is not None:
            self.held_to[held_to] += 1
        self.wasted[outcome] = self.wasted.get(outcome, Waste()) + record.wasted


class Ledger:
    """The records of all requests that are not settled yet, by id, and the sums over those that are.

    `now_s` is a monotonic clock, `unix_s` the time of day. With `keeps_content` a record holds its text. The
    callbacks may not block or raise, and none may rely on another having been called.
    """

    def __init__(
        self,
        *,
        keeps_content: bool = False,
        now_s: Callable[[], float] = trio.current_time,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self.keeps_content = keeps_content
        self.now_s = now_s
        self.unix_s = unix_s
        self.live: dict[str, Record] = {}
        self.totals = Totals()
        self.lanes = Lanes()
        self.watcher: Watcher | None = None
        """Set while somebody watches, and only then."""
        self.tracer: Tracer | None = None
        """Set where traces are wanted."""
        self.on_settled: list[Callable[[Record], None]] = []
        """Called once per request, when its record is complete and counted."""
        self.on_refused: list[Callable[[Refusal], None]] = []

    @property
    def tokens(self) -> Tokens:
        """Of all requests so far, those that run included: it moves as tokens do, and never back."""
        return sum(map(Tokens.of, self.live.values()), self.totals.tokens)

    def accept(self, about: About, request: GenerationRequest) -> Record:
        """A new request, from now on live."""
        record = Record(self, about, request)
        self.live[about.id] = record
        if self.watcher is not None:
            self.watcher.changed(record, at_once=True)
        if self.tracer is not None:
            self.tracer.moved(record, "preparing")
        return record

    def refuse(self, refusal: Refusal) -> None:
        """A request that is not accepted."""
        self.totals.refused[refusal.status, refusal.code] += 1
        for callback in self.on_refused:
            callback(refusal)

    def settle(self, record: Record) -> None:
        """Close the books on it, once."""
        if self.live.pop(record.about.id, None) is None:
            return
        self.totals.add(record)
        for callback in self.on_settled:
            callback(record)

    def close(self) -> None:
        """Settle what the engine can say no more about: it has stopped."""
        for record in tuple(self.live.values()):
            record.ended_by("shutdown")
            record.over()
            while not record.life.is_settled:
                record.released(Waste())
