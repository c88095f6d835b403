"""From acceptance to the one exit of every request.

with service.open(request, client, about, peer) as generation:     # refused now, or a place
    await generation.prepared()                         # its prompt is written, and it stands in line
    await generation.receive()                          # Queued*, then what the engine says
                                                        # leaving, however: out of queue and engine
"""

import math
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import trio

from corral.books.ledger import Ledger, Tokens
from corral.books.record import About, Record
from corral.engine.contract import Capacity, Embedding, Engine, Holdings, ReplicaState, Residence, Texts
from corral.errors import (
    Cancelled,
    CorralError,
    DeadlineExceeded,
    Draining,
    EngineFailed,
    InvalidRequest,
    NotFound,
    QueueFull,
    ShutDown,
    StoppedByOperator,
)
from corral.request import GenerationRequest
from corral.serving.admission import Admission, Ticket
from corral.serving.deadlines import Deadlines
from corral.serving.forecast import Forecast
from corral.serving.generation import Batch, Generation
from corral.serving.mailbox import Mailbox
from corral.serving.peer import Peer
from corral.serving.several import Several

TELL_WAITS_S = 1.0
"""How often those in line are told how long they will probably wait."""
MOST_RETRY_S = 60
UNKNOWN_RETRY_S = 10
"""What a client is told to wait that came to a full queue, at most, and where nobody can say."""
FRESH_S = 0.1
"""So long a wait that was worked out is good enough for all who ask."""
SPREAD = 0.2
"""By how much more of it some are told, so that they do not all come back at once."""
DELIVERY_BYTES = 4096
"""What a delivery, of one or a few engine steps, counts at least of what a client may lag behind. So by
default a client that reads nothing is evicted after 256 of them, some seconds of any model."""
FAREWELL_S = 1.0
"""How long those that were ended at shutdown may take to be gone."""


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """The settings of serving, by their names there. 0 means no limit, but for `queue_requests`."""

    queue_requests: int = 64
    reader_bytes: int = 2**20
    max_output_tokens: int = 0
    request_deadline_s: float = 0.0


class Service:
    """Takes requests to the engine: checks them, queues them, and sees them out."""

    def __init__(self, engine: Engine, options: ServiceOptions, ledger: Ledger) -> None:
        self.ledger = ledger
        self._engine = engine
        self._options = options
        self._deadlines: Deadlines[Generation] | None = (
            Deadlines(options.request_deadline_s, _deadline_passed) if options.request_deadline_s else None
        )
        self._admission = Admission(engine.capacity.slots, options.queue_requests)
        self._forecast = Forecast(
            engine.capacity.slots, ledger.now_s, limits_all=bool(options.max_output_tokens)
        )
        self._waits: tuple[float, tuple[Ticket, ...], dict[str, float | None]] = -math.inf, (), {}
        """When waits were last worked out, for which line, and what they were by id."""
        self._joined = trio.lowlevel.ParkingLot()
        self._idle = trio.lowlevel.ParkingLot()
        self._deserted = trio.lowlevel.ParkingLot()
        self._settled = trio.lowlevel.ParkingLot()
        ledger.on_settled.append(self._wake_settled)
        self._generations: dict[str, Generation] = {}
        self._live: dict[str, Record] = {}
        """Of its requests, those that are not settled yet."""
        engine.on_capacity.append(self._resize)
        self._is_draining = False
        self._measuring = 0
        self._asking = 0
        """Who asks of texts."""
        self._nursery: trio.Nursery | None = None
        """Of the tasks that prepare requests; None while it does not run."""

    @property
    def failure(self) -> EngineFailed | None:
        """Why nothing can be generated any more, if so."""
        return self._engine.failure

    @property
    def residence(self) -> Residence | None:
        """Whether the engine's model is in memory; None where that does not change, or is not known."""
        return self._engine.residence

    @property
    def is_there(self) -> bool:
        """Whether its model is there to be asked, without being loaded first."""
        residence = self._engine.residence
        return residence is None or residence.state == "loaded"

    def has_users(self) -> bool:
        """Whether anybody has something of the engine, or waits for that."""
        return bool(self._generations or self._measuring or self._asking or not self._admission.is_idle)

    @property
    def live(self) -> int:
        """Requests that are not settled yet."""
        return len(self._live)

    @property
    def live_tokens(self) -> Tokens:
        """Of these, so far."""
        return sum(map(Tokens.of, self._live.values()), Tokens())

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

    @property
    def queue_limit(self) -> int:
        """How many may wait."""
        return self._options.queue_requests

    @property
    def holdings(self) -> Holdings | None:
        """What the engine's caches hold; None where it cannot tell."""
        return self._engine.holdings

    @asynccontextmanager
    async def texts(self) -> AsyncIterator[Texts]:
        """What the engine can tell of texts and tokens, whose model stays in memory until the block ends.

        A checkpoint if that has to be loaded, and cancel-safe. Raises NotFound where it tells nothing,
        Overloaded or EngineFailed where it cannot be loaded.
        """
        self._asking += 1
        try:
            if not self.is_there:
                await self._engine.load()
            if self._engine.texts is None:
                raise NotFound("the engine of this server tells nothing of its tokens")
            yield self._engine.texts
        finally:
            self._asking -= 1

    @property
    def embedding(self) -> Embedding | None:
        """What vectors the engine makes of texts; None if none."""
        return self._engine.embedding

    @property
    def chat_template(self) -> str | None:
        """The template that conversations are written by; None where the engine has none."""
        return self._engine.chat_template

    @property
    def learned(self) -> Mapping[str, Any] | None:
        """How the model writes calls and thoughts, as JSON; None where the engine cannot tell."""
        return self._engine.learned

    @property
    def replicas(self) -> Sequence[ReplicaState]:
        """The engines behind the engine; none where it computes itself."""
        return self._engine.replicas

    def set_draining(self, replica: str, is_draining: bool) -> bool:
        """Give a replica nothing more, or requests again; False if there is none of that name."""
        return self._engine.set_draining(replica, is_draining)

    def step_age_s(self) -> float | None:
        """How long the engine's running step has lasted, in seconds; None if nothing runs."""
        return self._engine.step_age_s()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Prepare what is taken in and end what takes too long, until cancelled; before any `open`."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._tell_waits)
            task_status.started()
            try:
                if self._deadlines is not None:
                    await self._deadlines.run()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    @contextmanager
    def open(self, request: GenerationRequest, client: str, about: About, peer: Peer) -> Iterator[Generation]:
        """Take a request in, for a client key. From now on it has a place, and is being prepared.

        Raises InvalidRequest, ContextExceeded, QueueFull or Draining, and then nothing was. On leaving, its
        place is free, and its sequences leave the engine before the next step.
        """
        # All of this is synchronous: between the check and the place nobody else can come.
        self._check([request])
        with self._entered(request, client, about, peer, self._mailbox(about, 1), 0) as generation:
            yield generation

    @contextmanager
    def open_all(
        self, requests: Sequence[GenerationRequest], client: str, abouts: Sequence[About], peer: Peer
    ) -> Iterator[Several]:
        """As `open`, of several requests of the same `n`: all of them are taken in, or none is.

        Raises InvalidRequest too if there are more of them than ever could be here together.
        """
        room = self.capacity.slots // requests[0].n + self._options.queue_requests
        if len(requests) > max(1, room):
            message = f"{len(requests)} prompts are more than the {room} that this server takes at a time"
            raise InvalidRequest(message, param="prompt")
        self._check(requests)
        mailbox = self._mailbox(abouts[0], min(len(requests), self.capacity.slots))
        with ExitStack() as entered:
            generations = [
                entered.enter_context(
                    self._entered(request, client, about, peer, mailbox, number * request.n)
                )
                for number, (request, about) in enumerate(zip(requests, abouts, strict=True))
            ]
            yield Several(generations, mailbox)

    async def prompt_tokens(self, request: GenerationRequest, client: str) -> int:
        """How many tokens the prompt of a request has; a checkpoint. Cancelling it leaves nothing behind.

        As many may be measured at a time as may wait. Raises InvalidRequest, ContextExceeded, QueueFull or
        Draining.
        """
        self._refuse_if_draining()
        self._engine.check(request)
        if self._measuring >= max(1, self._options.queue_requests):
            raise QueueFull(f"{self._measuring} prompts are being measured already", retry_after_s=1)
        self._measuring += 1
        try:
            if not self.is_there:
                await self._engine.load()
                self._engine.check(request)
            return (await self._engine.prepare(request, client=client)).prompt_tokens
        finally:
            self._measuring -= 1

    def stop(self, id: str) -> bool:
        """End a request because an operator wants it; False if there is none of that id to be ended."""
        return self._end(id, StoppedByOperator("an operator stopped this request"))

    def is_running(self, id: str) -> bool:
        """Whether there is a request of that id which has not ended."""
        generation = self._generations.get(id)
        return generation is not None and not generation.record.has_ended

    def end_thought(self, id: str) -> bool:
        """Have a request answer now, if it is thinking; False if there is none of that id."""
        generation = self._generations.get(id)
        if generation is None or generation.record.has_ended:
            return False
        generation.end_thought()
        return True

    def cancel(self, id: str) -> bool:
        """End a request because its client asks for that; False if there is none of that id to be ended."""
        return self._end(id, Cancelled("the client cancelled this request"))

    def waits_s(self) -> dict[str, float | None]:
        """How long each that waits will probably wait yet, by id in their order; None: nobody can say."""
        now_s, line = self.ledger.now_s(), self._admission.waiting
        worked_out_s, for_line, waits = self._waits
        if line != for_line or now_s - worked_out_s > FRESH_S:
            by_ticket = {generation.ticket: generation.record for generation in self._generations.values()}
            records = [by_ticket[ticket] for ticket in line]
            estimates = self._forecast.waits_s(self._live.values(), records)
            waits = dict(zip((record.about.id for record in records), estimates, strict=True))
            self._waits = now_s, line, waits
        return waits

    def refuse_from_now_on(self) -> None:
        """Take no new request."""
        self._is_draining = True

    async def drain(self, drain_s: float) -> None:
        """Take no new request, and end those that still run after `drain_s` with ShutDown; cancel-safe.

        Returns when they have left the engine too, which is within a step if the engine is well.
        """
        self.refuse_from_now_on()
        with trio.move_on_after(drain_s):
            while self._generations:  # what the engine still does for nobody is not waited for: it may hang
                await self._deserted.park()
        for generation in tuple(self._generations.values()):
            generation.end(ShutDown("the server shut down before the answer was complete"))
        with trio.move_on_after(FAREWELL_S):
            await self.wait_settled()

    async def wait_idle(self) -> None:
        """Wait until nobody is prepared or queued and every slot is free; a checkpoint, cancel-safe."""
        await trio.lowlevel.checkpoint()
        while not self._admission.is_idle:
            await self._idle.park()

    async def wait_settled(self) -> None:
        """Wait until every request is over and settled; a checkpoint, cancel-safe."""
        await trio.lowlevel.checkpoint()
        while self._live:
            await self._settled.park()

    def check_idle(self) -> None:
        """Assert that no request has left anything behind; for tests."""
        assert not self._admission.waiting, "tickets left in the queue"
        assert self._admission.free_slots == self._admission.slots, "permits are lost"
        self._engine.check_idle()

    def _check(self, requests: Sequence[GenerationRequest]) -> None:
        """Raise what `open` does, of requests of the same `n`."""
        self._refuse_if_draining()
        for request in requests:
            self._check_one(request)
        self._admission.check(requests[0].n, tickets=len(requests), retry_after_s=self._retry_after_s)

    def _check_one(self, request: GenerationRequest) -> None:
        """Raise what is plain to see; more of it is once the model is there."""
        slots = self.capacity.slots
        self._engine.check(request)
        if request.n > slots:
            raise InvalidRequest(f"n is {request.n}, but this server has {slots} slots", param="n")
        if request.embed is not None and self._engine.embedding is None and self.is_there:
            raise InvalidRequest("the model of this server makes no vectors of texts", param="model")

    def _mailbox(self, about: About, requests: int) -> Mailbox[Batch]:
        """For the answers of so many requests at a time."""
        if not about.streams:
            # A whole answer is collected by us, not by its client, so there is nobody to be too slow.
            return Mailbox(math.inf)
        limit_bytes = self._options.reader_bytes
        return Mailbox(requests * limit_bytes // DELIVERY_BYTES, max_bytes=limit_bytes)

    @contextmanager
    def _entered(
        self,
        request: GenerationRequest,
        client: str,
        about: About,
        peer: Peer,
        mailbox: Mailbox[Batch],
        first_choice: int,
    ) -> Iterator[Generation]:
        assert self._nursery is not None, "the service does not run"
        if about.session or not about.streams:
            session = about.session or request.session
            request = replace(request, session=session, is_collected=not about.streams)
        record = self._live[about.id] = self.ledger.accept(about, request)
        generation = Generation(
            self._engine,
            self._admission,
            request,
            client,
            record,
            peer,
            mailbox=mailbox,
            first_choice=first_choice,
            max_output_tokens=self._options.max_output_tokens,
            check=self._check_one,
            wait_s=self._wait_s,
            on_started=self._forecast.began,
            on_released=self._released,
        )
        self._generations[about.id] = generation
        if self._deadlines is not None:
            self._deadlines.add(generation)
        self._admission.announce(generation.ticket)
        self._nursery.start_soon(generation.prepare)
        try:
            yield generation
        finally:
            if self._deadlines is not None:
                self._deadlines.remove(generation)
            del self._generations[about.id]
            if not self._generations:
                self._deserted.unpark_all()
            generation.over()
            self._wake_if_idle()

    async def _tell_waits(self) -> None:
        """Tell those in line every second where they stand and how long that will last, until cancelled."""
        while True:
            if not self._admission.waiting:
                await self._joined.park()
            await trio.sleep(TELL_WAITS_S)
            for generation in tuple(self._generations.values()):
                generation.tell_wait()

    def _wait_s(self, generation: Generation) -> float | None:
        """Asked by who is in line."""
        self._joined.unpark_all()
        return self.waits_s().get(generation.record.about.id)

    def _released(self, record: Record) -> None:
        self._forecast.released(record)
        self._wake_if_idle()

    def _end(self, id: str, error: CorralError) -> bool:
        generation = self._generations.get(id)
        if generation is None or generation.record.has_ended:
            return False
        generation.end(error)
        return True

    def _resize(self) -> None:
        slots = self.capacity.slots
        self._forecast.resize(slots)
        self._admission.resize(slots)
        for generation in tuple(self._generations.values()):
            generation.end_if_too_large()

    def _refuse_if_draining(self) -> None:
        if self._is_draining:
            raise Draining("the server is shutting down")

    def _wake_settled(self, record: Record) -> None:
        if self._live.pop(record.about.id, None) is not None:
            self._settled.unpark_all()

    def _wake_if_idle(self) -> None:
        if self._admission.is_idle:
            self._idle.unpark_all()

    def _retry_after_s(self) -> int:
        """When the queue has room again: as soon as the first in line has its slot."""
        wait_s = next(iter(self.waits_s().values()), None)
        if wait_s is None:
            return UNKNOWN_RETRY_S
        return max(1, math.ceil(min(MOST_RETRY_S, wait_s * random.uniform(1, 1 + SPREAD))))


def _deadline_passed(generation: Generation) -> None:
    generation.end(DeadlineExceeded("the request took longer than this server allows"))
