"""One request that is prepared, in the queue or in the engine, and what its client has not got of it yet.

Everything here but the waiting is synchronous, so no cancellation can fall between taking and giving back.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import trio

from corral.books.record import Record
from corral.engine.contract import Engine, Handle, Prepared, Waste
from corral.errors import CorralError, EngineFailed, InvalidRequest
from corral.events import BlockDelta, Collector, Completion, Embedded, Event, Failed, Loading, Queued
from corral.request import GenerationRequest
from corral.serving.admission import Admission, Ticket
from corral.serving.mailbox import Mailbox
from corral.serving.peer import Peer

logger = logging.getLogger("corral.serving")

WARM_TOKENS = 64
"""Fewer of a prompt in the cache are not worth that others wait for it."""

EVENT_BYTES = 128
"""Of an event or a log probability in memory, beside its text."""

Batch = tuple[int, list[Event]]
"""A choice's index, and what happened to it in one engine step, or a few quick ones."""


async def collected(mailbox: Mailbox[Batch], choices: int) -> list[Completion]:
    """The whole answers of so many choices; a checkpoint, cancel-safe.

    Raises the error of the first choice that failed.
    """
    collectors = [Collector() for _ in range(choices)]
    while any(collector.completion is None for collector in collectors):
        for choice, events in await mailbox.receive_all():
            for event in events:
                collectors[choice].feed(event)
    return [collector.completion for collector in collectors if collector.completion is not None]


class Generation:
    """What a client gets of its request: events in its mailbox, by choice, until each choice has ended.

    A client that lets the mailbox run full is evicted: its sequences leave the engine at once, and its
    connection is dropped. `writing`, `delivered` and `failed` are for whoever writes the answer, to say
    how that goes.
    """

    __slots__ = (
        "_admission",
        "_check",
        "_engine",
        "_error",
        "_first_choice",
        "_handles",
        "_is_evicted",
        "_is_prepared",
        "_mailbox",
        "_max_output_tokens",
        "_on_released",
        "_on_started",
        "_peer",
        "_prepared",
        "_preparing",
        "_wait_s",
        "record",
        "request",
        "ticket",
    )

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        request: GenerationRequest,
        client: str,
        record: Record,
        peer: Peer,
        *,
        mailbox: Mailbox[Batch],
        first_choice: int,
        max_output_tokens: int,
        check: Callable[[GenerationRequest], None],
        wait_s: Callable[["Generation"], float | None],
        on_started: Callable[[Record], None],
        on_released: Callable[[Record], None],
    ) -> None:
        """Its choices are counted from `first_choice` on, as others may have the same mailbox.

        `check` raises what is wrong with it once its model is there, and `wait_s` says how long it will
        probably wait yet. The callbacks may not block or raise.
        """
        self.request = request
        self.record = record
        self.ticket = Ticket(
            request.n,
            client,
            start=self._start,
            moved=self._moved,
            priority=request.priority,
            is_warm=self._is_warm,
        )
        self._preparing = trio.CancelScope()
        self._prepared: Prepared | None = None
        self._is_prepared = trio.Event()
        """Or has ended before it was, by `_error`."""
        self._error: CorralError | None = None
        self._max_output_tokens = max_output_tokens
        self._mailbox = mailbox
        self._first_choice = first_choice
        self._engine = engine
        self._admission = admission
        self._peer = peer
        self._check = check
        self._wait_s = wait_s
        self._on_started = on_started
        self._on_released = on_released
        self._handles: list[Handle] = []
        self._is_evicted = False

    @property
    def choices(self) -> int:
        """How many sequences it has."""
        return self.request.n

    async def prepare(self) -> None:
        """Have the prompt written, and stand in line; once, in a task of its own, which `close` cancels.

        What goes wrong ends the request, as any other failure does.
        """
        with self._preparing:
            try:
                if self.is_loading:
                    await self._loaded()
                prepared = await self._engine.prepare(self.request, client=self.ticket.client)
            except CorralError as error:
                self.end(error)
            except Exception:
                logger.exception("a request could not be prepared")
                self.end(CorralError("internal error"))
            else:
                if not self._preparing.cancel_called:  # it may have come too late
                    self._is_ready(prepared)

    @property
    def is_loading(self) -> bool:
        """Whether its model is not in memory, as it is of no model that is always there."""
        residence = self._engine.residence
        return residence is not None and residence.state != "loaded"

    async def _loaded(self) -> None:
        """Wait for its model, and see again what could not be known without; raises what is wrong."""
        for choice in range(self.choices):
            self._happened(choice, [Loading(self.record.about.model)])
        await self._engine.load()
        self._check(self.request)

    async def prepared(self) -> None:
        """Wait until the prompt is written; a checkpoint, cancel-safe. Raises what went wrong before that."""
        await self._is_prepared.wait()
        if self._error is not None:
            raise self._error

    async def receive(self) -> list[Batch]:
        """All that has happened since, at least one thing; a checkpoint. Cancelling it loses nothing."""
        return await self._mailbox.receive_all()

    async def complete(self) -> list[Completion]:
        """The whole answer, one Completion per choice; a checkpoint, cancel-safe.

        Raises the error of the first choice that failed.
        """
        return await collected(self._mailbox, self.choices)

    def answered(self, status: int) -> None:
        """The response begins, with this HTTP status."""
        self.record.answered(status)

    def writing(self, is_writing: bool) -> None:
        """A write to the client is under way, or has been taken."""
        self.record.writing(is_writing)

    def delivered(self) -> None:
        """The client has all of the answer, its end included."""
        self.record.delivered()

    def failed(self) -> None:
        """The answer could not be written, by a bug or an error that its client has been told."""
        self.record.ended_by("failed")

    def close(self) -> None:
        """Leave wherever it is, up to the engine; synchronous and idempotent."""
        self._preparing.cancel()
        self._admission.leave(self.ticket)
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.cancel()

    def over(self) -> None:
        """The response is over: leave, and say how it ended. Synchronous and idempotent."""
        self.close()
        if self._peer.has_stalled:
            self.record.ended_by("evicted")
        self.record.over()

    def end_thought(self) -> None:
        """Have it answer now, where it is thinking; synchronous, harmless where it is not."""
        for handle in self._handles:
            handle.end_thought()

    def end(self, error: CorralError) -> None:
        """End it for a reason of ours: its sequences leave the engine, its reader is told. Synchronous.

        Harmless once the engine has ended it: then its reader has an end already.
        """
        if self.record.has_ended:
            return
        self.close()
        if not self._is_prepared.is_set():
            self._error = error
            self._is_prepared.set()
        self._happened(0, [Failed(error)])

    def tell_wait(self) -> None:
        """Say again where it stands in line and how long that will last; harmless once it has its slots."""
        if self.ticket.is_waiting:
            self._moved(self.ticket.position)

    def end_if_too_large(self) -> None:
        """End it if it is in line for more slots than there are now; synchronous.

        It would hold up all behind it, perhaps for ever. While there are none at all it holds up nobody.
        """
        slots = self._admission.slots
        if self.ticket.is_waiting and 0 < slots < self.ticket.slots:
            self.end(
                InvalidRequest(
                    f"n is {self.ticket.slots}, but this server has only {slots} slots now", param="n"
                )
            )

    def _is_ready(self, prepared: Prepared) -> None:
        max_tokens = min(prepared.max_tokens, self._max_output_tokens or prepared.max_tokens)
        self.record.prepared(prepared.prompt_tokens, max_tokens)
        self._prepared = prepared
        self._is_prepared.set()
        self._admission.join(self.ticket)
        self.end_if_too_large()

    def _is_warm(self) -> bool:
        """Whether most of its prompt need not be computed if it starts now."""
        if self._prepared is None:
            return False
        cached_tokens = self._engine.cached_tokens(self._prepared)
        return cached_tokens >= WARM_TOKENS and 2 * cached_tokens >= self._prepared.prompt_tokens

    def _start(self) -> None:
        assert self._prepared is not None
        self.record.admitted()
        self._on_started(self.record)
        for choice in range(self.choices):
            sink = _Sink(partial(self._happened, choice), self._released)
            try:
                handle = self._engine.submit(self._prepared, choice, sink, max_tokens=self.record.max_tokens)
            except Exception as error:  # whatever it is, the slot must come back
                if not isinstance(error, EngineFailed):
                    logger.exception("a request could not be submitted")
                    error = EngineFailed("the engine failed")
                self._happened(choice, [Failed(error)])
                self._released(Waste())
            else:
                self._handles.append(handle)

    def _moved(self, position: int) -> None:
        queued = Queued(position, self._wait_s(self))
        for choice in range(self.choices):
            self._happened(choice, [queued])

    def _happened(self, choice: int, events: list[Event]) -> None:
        self.record.observe(choice, events)
        if self._is_evicted:
            return  # it has missed something, and must not go on as if it had not
        batch = (self._first_choice + choice, events)
        if not self._mailbox.push_nowait(batch, sum(map(_size_bytes, events))):
            self._is_evicted = True
            self.record.ended_by("evicted")
            self.close()
            self._peer.abort()

    def _released(self, waste: Waste) -> None:
        self.record.released(waste)  # first: its lane may go to whoever the release lets in
        self._admission.release(self.ticket)
        self._on_released(self.record)


@dataclass(frozen=True, slots=True)
class _Sink:
    """What the engine tells one choice of a generation."""

    events: Callable[[list[Event]], None]
    released: Callable[[Waste], None]


def _size_bytes(event: Event) -> int:
    """Roughly what an event holds in memory for its reader."""
    if isinstance(event, Embedded):
        return EVENT_BYTES + len(event.vector)
    if not isinstance(event, BlockDelta):
        return EVENT_BYTES
    entries = sum(1 + len(logprob.top) for logprob in event.logprobs)
    return EVENT_BYTES * (1 + entries) + len(event.text)
