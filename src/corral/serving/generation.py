"""One request from acceptance to its one exit.

    with service.open(prepared, client, about) as generation:   # QueueFull, or a place in line
        await generation.subscription.receive_waiting()         # Queued*, then what the engine says
                                                                # leaving, however: out of queue and engine

Everything here but the waiting is synchronous, so no cancellation can fall between taking and giving back.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import trio

from corral.books.ledger import Ledger
from corral.books.record import About, Record
from corral.engine.contract import Capacity, Engine, Handle, Prepared, Released
from corral.errors import (
    CorralError,
    DeadlineExceeded,
    Draining,
    EngineFailed,
    InvalidRequest,
    ShutDown,
    StoppedByOperator,
)
from corral.events import BlockDelta, Collector, Completion, Event, Failed, Queued
from corral.request import GenerationRequest
from corral.serving.admission import Admission, Ticket
from corral.serving.deadlines import Deadlines
from corral.serving.subscription import Subscription

logger = logging.getLogger("corral.serving")

FIRST_GUESS_S = 2.0  # how long a request takes, before any has finished
SMOOTHING = 0.2
EVENT_BYTES = 128  # of an event or a log probability, beside its text
FAREWELL_S = 1.0  # how long those that were ended at shutdown may take to be gone

Batch = tuple[int, list[Event]]
"""A choice's index, and what happened to it in one engine step, or a few quick ones."""


class Service:
    """Takes requests to the engine: checks them, queues them, and sees them out."""

    def __init__(
        self,
        engine: Engine,
        *,
        queue_limit: int,
        subscriber_events: int,
        subscriber_bytes: int,
        max_output_tokens: int,
        request_deadline_s: float = 0.0,
        ledger: Ledger | None = None,
    ) -> None:
        self.ledger = Ledger(slots=engine.capacity.slots) if ledger is None else ledger
        self.on_draining: list[Callable[[], None]] = []
        """Called when the first request is refused from now on. May not block or raise."""
        self._engine = engine
        self._deadlines: Deadlines[Generation] | None = (
            Deadlines(request_deadline_s, _deadline_passed) if request_deadline_s else None
        )
        self._admission = Admission(engine.capacity.slots, queue_limit)
        self._subscriber_events = subscriber_events
        self._subscriber_bytes = subscriber_bytes
        self._max_output_tokens = max_output_tokens
        self._request_s = FIRST_GUESS_S
        self._idle = trio.lowlevel.ParkingLot()
        self._settled = trio.lowlevel.ParkingLot()
        self.ledger.on_settled.append(self._wake_settled)
        self._open: dict[str, Generation] = {}
        self._is_draining = False

    @property
    def failure(self) -> EngineFailed | None:
        """Why nothing can be generated any more, if so."""
        return self._engine.failure

    @property
    def is_draining(self) -> bool:
        """No new request is taken any more."""
        return self._is_draining

    @property
    def waiting(self) -> int:
        return len(self._admission.waiting)

    @property
    def free_slots(self) -> int:
        return self._admission.free_slots

    @property
    def capacity(self) -> Capacity:
        """What the engine takes at a time."""
        return self._engine.capacity

    async def prepare(self, request: GenerationRequest, client: str) -> Prepared:
        """Check and measure a request, before anything is queued; cancel-safe.

        Raises InvalidRequest, ContextExceeded if prompt plus requested output cannot fit, or Draining.
        """
        try:
            return await self._prepare(request, client)
        except CorralError as error:
            self.ledger.refused(error)
            raise

    async def _prepare(self, request: GenerationRequest, client: str) -> Prepared:
        self._refuse_if_draining()
        slots = self._engine.capacity.slots
        if request.n > slots:
            raise InvalidRequest(f"n is {request.n}, but this server has {slots} slots", param="n")
        return await self._engine.prepare(request, client=client)

    @contextmanager
    def open(self, prepared: Prepared, client: str, about: About) -> Iterator["Generation"]:
        """Take a prepared request in, for a client key; raises QueueFull or Draining.

        On leaving, its place in the queue is free, and its sequences leave the engine before the next step.
        """
        generation = self._enter(prepared, client, about)
        try:
            yield generation
        finally:
            if self._deadlines is not None:
                self._deadlines.remove(generation)
            del self._open[about.id]
            generation.close()
            if generation.has_stalled():
                generation.record.ended_by("evicted")
            generation.record.over()
            self._wake_if_idle()
            self._request_s += SMOOTHING * (generation.record.total_s - self._request_s)

    async def run(self) -> None:
        """End the requests that take too long, until cancelled; nothing to do without a deadline."""
        if self._deadlines is not None:
            await self._deadlines.run()

    def stop(self, id: str) -> bool:
        """End a request because an operator wants it; False if there is none of that id to be ended."""
        generation = self._open.get(id)
        if generation is None or generation.record.ended_s is not None:
            return False
        generation.end(StoppedByOperator("an operator stopped this request"))
        return True

    def eta_s(self, position: int) -> float:
        """How long the waiter at `position` will probably wait for a slot."""
        return (position + 1) / self._admission.slots * self._request_s

    async def drain(self, drain_s: float) -> None:
        """Take no new request, and end those that still run after `drain_s` with ShutDown; cancel-safe.

        Returns when they have left the engine too, which is within a step if the engine is well.
        """
        self._is_draining = True
        for callback in self.on_draining:
            callback()
        with trio.move_on_after(drain_s):
            await self.wait_idle()
        for generation in tuple(self._open.values()):
            generation.end(ShutDown("the server shut down before the answer was complete"))
        with trio.move_on_after(FAREWELL_S):
            await self.wait_settled()

    async def wait_idle(self) -> None:
        """Wait until nothing is queued and every slot is free; a checkpoint, cancel-safe."""
        await trio.lowlevel.checkpoint()
        while not self._admission.is_idle:
            await self._idle.park()

    async def wait_settled(self) -> None:
        """Wait until every request is over and settled; a checkpoint, cancel-safe."""
        await trio.lowlevel.checkpoint()
        while self.ledger.live:
            await self._settled.park()

    def check_idle(self) -> None:
        """Assert that no request has left anything behind; for tests."""
        assert not self._admission.waiting, "tickets left in the queue"
        assert self._admission.free_slots == self._admission.slots, "permits are lost"
        self._engine.check_idle()

    def _enter(self, prepared: Prepared, client: str, about: About) -> "Generation":
        max_tokens = min(prepared.max_tokens, self._max_output_tokens or prepared.max_tokens)
        record = self.ledger.accept(about, prepared.request, prepared.prompt_tokens, max_tokens)
        try:
            self._refuse_if_draining()
            generation = Generation(
                self._engine,
                self._admission,
                prepared,
                client,
                record,
                # A whole answer is collected by us, not by its client, so there is nobody to be too slow.
                max_items=self._subscriber_events if about.streams else math.inf,
                max_bytes=self._subscriber_bytes if about.streams else math.inf,
                on_released=self._wake_if_idle,
            )
            self._admission.join(generation.ticket, retry_after_s=self._retry_after_s())
        except CorralError as error:
            self.ledger.forget(record)
            self.ledger.refused(error)
            raise
        self._open[about.id] = generation
        if self._deadlines is not None:
            self._deadlines.add(generation)
        return generation

    def _refuse_if_draining(self) -> None:
        if self._is_draining:
            raise Draining("the server is shutting down")

    def _wake_settled(self, _record: Record) -> None:
        self._settled.unpark_all()

    def _wake_if_idle(self) -> None:
        if self._admission.is_idle:
            self._idle.unpark_all()

    def _retry_after_s(self) -> int:
        turns = (len(self._admission.waiting) + 1) / self._admission.slots
        return max(1, math.ceil(turns * self._request_s))


class Generation:
    """A request in the queue or the engine; its events come on `subscription`, by choice.

    A reader that lets `subscription` run full is evicted: the sequences leave the engine at once and
    `on_evicted` is called, which may not block or raise. Set it before anything is awaited after `open`, and
    `has_stalled`, which says at the end whether its client was dropped further down because it took nothing.
    """

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        prepared: Prepared,
        client: str,
        record: Record,
        *,
        max_items: float,
        max_bytes: float,
        on_released: Callable[[], None],
    ) -> None:
        self.prepared = prepared
        self.record = record
        self.subscription: Subscription[Batch | None] = Subscription(
            max_items, self._overflowed, max_bytes=max_bytes
        )
        self.ticket = Ticket(prepared.request.n, client, start=self._start, moved=self._moved)
        self.on_evicted: Callable[[], None] = lambda: None
        self.has_stalled: Callable[[], bool] = lambda: False
        self._engine = engine
        self._admission = admission
        self._on_released = on_released
        self._handles: list[Handle] = []

    def close(self) -> None:
        """Leave the queue and the engine; synchronous and idempotent."""
        self._admission.leave(self.ticket)
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.cancel()

    def end(self, error: CorralError) -> None:
        """End it for a reason of ours: its sequences leave the engine, its reader is told. Synchronous.

        Harmless once the engine has ended it: then its reader has an end already.
        """
        if self.record.ended_s is not None:
            return
        self.close()
        self._happened(0, [Failed(error)])

    async def complete(self) -> list[Completion]:
        """The whole answer, one Completion per choice; raises the error of the first that failed."""
        collectors = [Collector() for _ in range(self.prepared.request.n)]
        while any(collector.completion is None for collector in collectors):
            for batch in await self.subscription.receive_waiting():
                if batch is not None:
                    choice, events = batch
                    for event in events:
                        collectors[choice].feed(event)
        return [collector.completion for collector in collectors if collector.completion is not None]

    def _start(self) -> None:
        self.record.admitted(self.prepared.request.n)
        for choice in range(self.prepared.request.n):
            sink = _Sink(partial(self._happened, choice), self._released)
            try:
                handle = self._engine.submit(self.prepared, choice, sink, max_tokens=self.record.max_tokens)
            except EngineFailed as error:
                self._happened(choice, [Failed(error)])
                self._released(Released())
            else:
                self._handles.append(handle)

    def _moved(self, position: int) -> None:
        for choice in range(self.prepared.request.n):
            self._happened(choice, [Queued(position)])

    def _happened(self, choice: int, events: list[Event]) -> None:
        self.record.observe(choice, events)
        self.subscription.push_nowait((choice, events), sum(map(_size_bytes, events)))

    def _released(self, released: Released) -> None:
        self.record.released(released)  # first: its lane may go to whoever the release lets in
        self._admission.release()
        self._on_released()

    def _overflowed(self) -> None:
        self.record.ended_by("evicted")
        self.close()
        self.on_evicted()


@dataclass(frozen=True, slots=True)
class _Sink:
    """What the engine tells one choice of a generation."""

    events: Callable[[list[Event]], None]
    released: Callable[[Released], None]


def _size_bytes(event: Event) -> int:
    """Roughly what an event holds in memory for its reader."""
    if not isinstance(event, BlockDelta):
        return EVENT_BYTES
    entries = sum(1 + len(logprob.top) for logprob in event.logprobs)
    return EVENT_BYTES * (1 + entries) + len(event.text)


def _deadline_passed(generation: Generation) -> None:
    generation.end(DeadlineExceeded("the request took longer than this server allows"))
