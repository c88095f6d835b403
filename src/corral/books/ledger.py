"""What is known of every request, running and finished: the one source of /status, /metrics and the log.

A record (see there) is settled once, when the response is over and the engine has let go of every sequence,
because only then is it known what was computed for nobody.

Everything here is synchronous and runs on the event loop. Nobody watching costs one comparison per event.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from corral import errors
from corral.books.record import About, Outcome, Record, Waste
from corral.engine.contract import Released
from corral.events import Sampled
from corral.request import GenerationRequest


class Watcher(Protocol):
    """Who is told as it happens. None of these may block or raise."""

    def changed(self, record: Record, *, at_once: bool) -> None:
        """Its counters moved or, `at_once`, its state did."""

    def said(self, record: Record, choice: int, text: str) -> None: ...
    def drafted(self, record: Record, choice: int, step: Sampled) -> None:
        """A step had a draft, where content is kept."""

    def settled(self, record: Record) -> None: ...
    def forgotten(self, record: Record) -> None:
        """It was refused after all, in the call in which it was opened."""


@dataclass(slots=True)
class Totals:
    """Over all settled requests."""

    by_outcome: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    wasted: dict[Outcome, Waste] = field(default_factory=dict)


class Ledger:
    """The records of all requests that are not settled yet, by id, and the sums over those that are.

    `now_s` is a monotonic clock. With `keeps_content` a record holds its text.
    """

    def __init__(
        self, *, slots: int, keeps_content: bool = False, now_s: Callable[[], float] = trio.current_time
    ) -> None:
        self.slots = slots
        self.keeps_content = keeps_content
        self.now_s = now_s
        self.live: dict[str, Record] = {}
        self.totals = Totals()
        self.watcher: Watcher | None = None
        """Set while somebody watches, and only then."""
        self.on_settled: list[Callable[[Record], None]] = []
        """Called once per request, when its record is complete. May not block or raise."""
        self._lanes = list(range(slots))

    def accept(self, about: About, request: GenerationRequest, prompt_tokens: int, max_tokens: int) -> Record:
        """A new request, from now on live."""
        record = Record(self, about, request, prompt_tokens, max_tokens)
        self.live[about.id] = record
        if self.watcher is not None:
            self.watcher.changed(record, at_once=True)
        return record

    def forget(self, record: Record) -> None:
        """It was refused: no trace of it stays."""
        del self.live[record.about.id]
        if self.watcher is not None:
            self.watcher.forgotten(record)

    def refused(self, error: errors.CorralError) -> None:
        """Count a request that was never accepted, by the class of its error."""
        self.totals.refused[type(error).__name__] += 1

    def close(self) -> None:
        """Settle what the engine can say no more about: it has stopped."""
        for record in tuple(self.live.values()):
            record.ended_by("shutdown")
            record.over()
            while not record.is_settled:
                record.released(Released())

    def take_lanes(self, count: int) -> tuple[int, ...]:
        """The lowest free numbers; there are as many as slots, and a slot was free."""
        return tuple(heapq.heappop(self._lanes) for _ in range(count))

    def give_lanes(self, lanes: tuple[int, ...]) -> None:
        for lane in lanes:
            heapq.heappush(self._lanes, lane)

    def settle_if_done(self, record: Record) -> None:
        """Close the books on it, once."""
        if not record.is_settled or self.live.pop(record.about.id, None) is None:
            return
        outcome = record.outcome or "failed"
        totals = self.totals
        totals.by_outcome[record.about.api, outcome] += 1
        totals.prompt_tokens += record.prompt_tokens
        totals.cached_tokens += record.cached_tokens or 0
        totals.completion_tokens += record.completion_tokens
        totals.drafted_tokens += record.drafted_tokens or 0
        totals.accepted_tokens += record.accepted_tokens or 0
        totals.wasted.setdefault(outcome, Waste()).add(record.wasted)
        for callback in self.on_settled:
            callback(record)
        if self.watcher is not None:
            self.watcher.settled(record)
