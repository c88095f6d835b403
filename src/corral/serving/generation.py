"""One request from acceptance to its one exit.

    with service.open(prepared, client) as generation:      # QueueFull, or a place in line
        async for ... in generation.subscription            # Queued*, then what the engine says
                                                            # leaving, however: out of queue and engine

Everything here but the waiting is synchronous, so no cancellation can fall between taking and giving back.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

import trio

from corral.engine.client import Engine, Subscriber
from corral.errors import ContextExceeded, CorralError, Draining, EngineFailed, InvalidRequest, ShutDown
from corral.events import Collector, Completion, Event, Failed, Queued
from corral.request import GenerationRequest
from corral.serving.admission import Admission, Ticket
from corral.serving.subscription import Subscription

logger = logging.getLogger("corral.serving")

FIRST_GUESS_S = 2.0  # how long a request takes, before any has finished
SMOOTHING = 0.2

Batch = tuple[int, list[Event]]
"""A choice's index, and what happened to it in one engine step."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that fits: its prompt's tokens, and how many may follow them."""

    request: GenerationRequest
    prompt: list[int]
    max_tokens: int


class Service:
    """Takes requests to the engine: checks them, queues them, and sees them out."""

    def __init__(
        self, engine: Engine, *, queue_limit: int, subscriber_events: int, max_output_tokens: int
    ) -> None:
        self._engine = engine
        self._admission = Admission(engine.slots, queue_limit)
        self._subscriber_events = subscriber_events
        self._max_output_tokens = max_output_tokens
        self._request_s = FIRST_GUESS_S
        self._idle = trio.lowlevel.ParkingLot()
        self._open: set[Generation] = set()
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
    def request_ctx_tokens(self) -> int:
        """Tokens one request may hold, prompt and output together."""
        return self._engine.request_ctx_tokens

    async def prepare(self, request: GenerationRequest) -> Prepared:
        """Render, tokenize and check a request, before anything is queued; cancel-safe.

        Raises InvalidRequest, ContextExceeded if prompt plus requested output cannot fit, or Draining.
        """
        self._refuse_if_draining()
        if request.n > self._engine.slots:
            raise InvalidRequest(
                f"n is {request.n}, but this server has {self._engine.slots} slots", param="n"
            )
        vocabulary_tokens = self._engine.vocabulary_tokens
        for token, _ in request.sampling.logit_bias:
            if token >= vocabulary_tokens:
                raise InvalidRequest(
                    f"token {token} is not one of the model's {vocabulary_tokens}", param="logit_bias"
                )
        prompt = await self._engine.prompt(request)
        return Prepared(request, prompt, self._output_tokens(request, len(prompt)))

    @contextmanager
    def open(self, prepared: Prepared, client: str) -> Iterator["Generation"]:
        """Take a prepared request in, for a client key; raises QueueFull or Draining.

        On leaving, its place in the queue is free, and its sequences leave the engine before the next step.
        """
        self._refuse_if_draining()
        generation = Generation(
            self._engine,
            self._admission,
            prepared,
            client,
            max_items=self._subscriber_events,
            on_released=self._wake_if_idle,
        )
        began_s = perf_counter()
        self._admission.join(generation.ticket, retry_after_s=self._retry_after_s())
        self._open.add(generation)
        try:
            yield generation
        finally:
            self._open.remove(generation)
            generation.close()
            self._wake_if_idle()
            self._request_s += SMOOTHING * (perf_counter() - began_s - self._request_s)

    async def drain(self, drain_s: float) -> None:
        """Take no new request, and end those that still run after `drain_s` with ShutDown; cancel-safe."""
        self._is_draining = True
        with trio.move_on_after(drain_s):
            await self.wait_idle()
        for generation in tuple(self._open):
            generation.end(ShutDown("the server shut down before the answer was complete"))

    async def wait_idle(self) -> None:
        """Wait until nothing is queued and every slot is free; a checkpoint, cancel-safe."""
        await trio.lowlevel.checkpoint()
        while not self._admission.is_idle:
            await self._idle.park()

    def check_idle(self) -> None:
        """Assert that no request has left anything behind; for tests."""
        assert not self._admission.waiting, "tickets left in the queue"
        assert self._admission.free_slots == self._admission.slots, "permits are lost"
        self._engine.check_idle()

    def _refuse_if_draining(self) -> None:
        if self._is_draining:
            raise Draining("the server is shutting down")

    def _output_tokens(self, request: GenerationRequest, prompt_tokens: int) -> int:
        limit = self._engine.request_ctx_tokens
        room = limit - prompt_tokens
        wanted = request.max_tokens
        if room < 1 or (wanted is not None and wanted > room):
            asked = f" and {wanted} of output" if wanted is not None and room >= 1 else ""
            raise ContextExceeded(
                f"this model's context is {limit} tokens, but the prompt has {prompt_tokens}{asked}",
                prompt_tokens=prompt_tokens,
                limit_tokens=limit,
                param="messages" if room < 1 else "max_tokens",
            )
        return min(wanted or room, self._max_output_tokens or room)

    def _wake_if_idle(self) -> None:
        if self._admission.is_idle:
            self._idle.unpark_all()

    def _retry_after_s(self) -> int:
        turns = (len(self._admission.waiting) + 1) / self._admission.slots
        return max(1, math.ceil(turns * self._request_s))


class Generation:
    """A request in the queue or the engine; its events come on `subscription`, by choice.

    A reader that lets `subscription` run full is evicted: the sequences leave the engine at once and
    `on_evicted` is called, which may not block or raise.
    """

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        prepared: Prepared,
        client: str,
        *,
        max_items: int,
        on_released: Callable[[], None],
    ) -> None:
        self.prepared = prepared
        self.subscription: Subscription[Batch | None] = Subscription(max_items, self._overflowed)
        self.ticket = Ticket(prepared.request.n, client, start=self._start, moved=self._moved)
        self.on_evicted: Callable[[], None] = lambda: None
        self._engine = engine
        self._admission = admission
        self._on_released = on_released
        self._keys: list[int] = []

    def close(self) -> None:
        """Leave the queue and the engine; synchronous and idempotent."""
        self._admission.leave(self.ticket)
        for key in self._keys:
            self._engine.cancel(key)

    def end(self, error: CorralError) -> None:
        """End it for a reason of ours: its sequences leave the engine, its reader is told. Synchronous."""
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
        prepared, request = self.prepared, self.prepared.request
        for choice in range(request.n):
            sampling = request.sampling
            if sampling.seed is not None:
                sampling = replace(sampling, seed=sampling.seed + choice)
            subscriber = Subscriber(partial(self._happened, choice), self._released)
            try:
                key = self._engine.submit(
                    prepared.prompt,
                    sampling,
                    subscriber,
                    max_tokens=prepared.max_tokens,
                    stop=request.stop,
                    top_logprobs=request.top_logprobs,
                )
            except EngineFailed as error:
                self._happened(choice, [Failed(error)])
                self._released()
            else:
                self._keys.append(key)

    def _moved(self, position: int) -> None:
        for choice in range(self.prepared.request.n):
            self._happened(choice, [Queued(position)])

    def _happened(self, choice: int, events: list[Event]) -> None:
        self.subscription.push_nowait((choice, events))

    def _released(self) -> None:
        self._admission.release()
        self._on_released()

    def _overflowed(self) -> None:
        self.close()
        self.on_evicted()
