"""An Engine (see engine.contract) of servers elsewhere: each sequence is a request to one of them.

A sequence is one task. It holds a slot of a replica by scope, and a connection of its own by another within;
cancelling it leaves the inner one, which resets the connection, and then, still holding the slot, it waits
until the upstream computes nothing for it any more, where that can be seen. An attempt that fails before
anything of the answer was heard is made once more at another replica, and never after that.
"""

import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

import trio

from corral.engine.contract import Capacity, Prepared, ReplicaState, Sink, Waste
from corral.engine.upstream.affinity import blocks_of
from corral.engine.upstream.answer import Answer
from corral.engine.upstream.ask import body_of, check, path_of
from corral.engine.upstream.events import EventReader, EventTooLarge
from corral.engine.upstream.exchange import Ask, Exchange, Head
from corral.engine.upstream.faults import Fault, broken, fault_of_answer, none_left
from corral.engine.upstream.fleet import EXPECTED_TOKENS, Fleet, Wanted
from corral.engine.upstream.measure import Measure
from corral.engine.upstream.options import FleetOptions, UpstreamOptions
from corral.engine.upstream.replica import EVENT_BYTES, OUTPUT_WEIGHT, Lease, Replica
from corral.errors import CorralError, EngineFailed, InvalidRequest, prompt_too_long
from corral.events import Event, Failed, Finished, Placed, Prefill
from corral.request import GenerationRequest

logger = logging.getLogger("corral.upstream")

ATTEMPTS: Final = 2
ERROR_BYTES: Final = 64 * 1024
GOODBYE_S: Final = 0.5
"""How long the end of a connection is waited for, once the answer is whole."""
UNNAMED: Final = "upstream"
"""What the model is called while no upstream has said what it is."""
LEAVING_SHARE: Final = 1.25
LEAVING_TOKENS: Final = 64
"""What a guess of a prompt's length may be short of it, where an output is to be clipped to the rest."""
ANSWER_BYTES: Final = 2**28
"""Of one answer on the wire, at most."""
OVER: Final = 16
"""Tokens past its limit at which an upstream is taken not to keep it."""


@dataclass(frozen=True, slots=True)
class UpstreamPrepared:
    """A request, and what can be guessed of its prompt: only the upstream knows its tokens."""

    request: GenerationRequest
    wanted: Wanted
    max_tokens: int

    @property
    def prompt_tokens(self) -> int:
        """A guess, by what prompts before it had per byte."""
        return self.wanted.prompt_tokens


class _Sequence:
    """One choice that runs: a handle, and what its task needs to know."""

    def __init__(self, prepared: UpstreamPrepared, choice: int, sink: Sink, max_tokens: int, id: str) -> None:
        self.prepared = prepared
        self.choice = choice
        self.max_tokens = max_tokens
        self.id = id
        self.is_cancelled = False
        self._sink = sink
        self._scope = trio.CancelScope()
        self._is_over = False

    def cancel(self) -> None:
        """Reset its connection; its release follows. Harmless once it has ended."""
        if not self._is_over:
            self.is_cancelled = True
            self._scope.cancel()

    def end_thought(self) -> None:
        """No upstream can be told that."""

    def enter(self, scope: trio.CancelScope) -> trio.CancelScope:
        """What is done within `scope` from now on ends when it is cancelled."""
        self._scope = scope
        if self.is_cancelled:
            scope.cancel()
        return scope

    def tell(self, events: list[Event]) -> None:
        if self.is_cancelled:
            return
        self._is_over = self._is_over or isinstance(events[-1], Finished | Failed)
        _call(self._sink.events, events)

    def released(self, waste: Waste) -> None:
        _call(self._sink.released, waste)

    @property
    def is_over(self) -> bool:
        """Its end was told."""
        return self._is_over


class UpstreamEngine:
    """Made by `opened`, which asks the upstreams what they are."""

    def __init__(self, options: FleetOptions, tls: ssl.SSLContext | None) -> None:
        self.texts = None
        self.embedding = None
        self.holdings = None
        self.holdings = None
        self.chat_template = None
        self.on_capacity: list[Callable[[], None]] = []
        """Called when `capacity.slots` has changed. May not block or raise."""
        self.fleet = Fleet(self._slots_changed)
        self._options = options
        self._tls = tls
        self._measure = Measure()
        self._told_slots = 0
        self._freed = trio.lowlevel.ParkingLot()
        self._open: set[_Sequence] = set()
        self._numbers = 0
        self._added = 0
        self._nursery: trio.Nursery | None = None

    @classmethod
    async def opened(
        cls, upstreams: Sequence[UpstreamOptions], options: FleetOptions, tls: ssl.SSLContext | None = None
    ) -> "UpstreamEngine":
        """One over these upstreams, as far as they answer; a checkpoint.

        One that does not is asked again while the engine runs. `tls` is the system's unless another is given.
        """
        engine = cls(options, tls)
        for upstream in upstreams:
            engine._add(upstream)
        async with trio.open_nursery() as nursery:
            for replica in engine.fleet.replicas:
                nursery.start_soon(replica.find)
        engine._told_slots = engine.fleet.slots
        return engine

    @property
    def model(self) -> str:
        """The model's public name: what it was configured as, or what the first upstream calls it."""
        replicas = self.fleet.replicas
        names = [replica.upstream.models[0] for replica in replicas if replica.upstream.models]
        # One that goes by its file's path does not show that to clients.
        names += [_without_path(replica.model) for replica in replicas]
        return next(filter(None, names), UNNAMED)

    @property
    def capacity(self) -> Capacity:
        """What the replicas take that are in service just now."""
        slots, ctx_tokens = self.fleet.slots, self.fleet.ctx_tokens
        return Capacity(slots, slots * ctx_tokens, ctx_tokens)

    @property
    def failure(self) -> EngineFailed | None:
        """None while a replica is in service."""
        return None if self.fleet.can_serve() else none_left()

    @property
    def learned(self) -> Mapping[str, Any] | None:
        """How an upstream's model writes calls is the upstream's to know."""
        return None

    @property
    def replicas(self) -> Sequence[ReplicaState]:
        """In the order in which they were configured."""
        return [replica.state() for replica in self.fleet.replicas]

    def set_draining(self, replica: str, is_draining: bool) -> bool:
        """Give a replica nothing more, or requests again; what it has goes on. False if there is none."""
        found = [each for each in self.fleet.replicas if each.name == replica]
        for each in found:
            each.set_draining(is_draining)
        return bool(found)

    def reconfigure(self, upstreams: Sequence[UpstreamOptions]) -> None:
        """Have these from now on: new ones are asked what they are, and those that are gone are let finish.

        One whose options have changed is both. The engine runs.
        """
        if self._nursery is None:
            raise EngineFailed("the engine is not running")
        wanted = list(upstreams)
        for replica in tuple(self.fleet.replicas):
            if replica.upstream in wanted:
                wanted.remove(replica.upstream)
            elif not replica.is_leaving:
                replica.is_leaving = True
                self._nursery.start_soon(self._let_finish, replica)
        for upstream in wanted:
            self._nursery.start_soon(self._join, self._add(upstream))

    async def _join(self, replica: Replica) -> None:
        await replica.find()
        self._slots_changed()
        await replica.run()

    async def _let_finish(self, replica: Replica) -> None:
        replica.set_draining(True)
        await replica.wait_idle()
        self.fleet.remove(replica)
        replica.scope.cancel()
        logger.info("%s is gone", replica.name)

    def step_age_s(self) -> float | None:
        """Steps are the upstreams' own; who hangs is found by its silence."""
        return None

    def check(self, request: GenerationRequest) -> None:
        """Refuse what one of the upstreams cannot be asked for, and everything while none answers.

        Raises InvalidRequest or UpstreamFailed.
        """
        if (failure := self.failure) is not None:
            raise failure
        found = [replica.kind for replica in self.fleet.replicas if replica.found is not None]
        for kind in {kind.name: kind for kind in found}.values():
            check(request, kind)

    async def prepare(self, request: GenerationRequest, *, client: str) -> UpstreamPrepared:
        """Guess how long the prompt is, and note its beginnings; a checkpoint.

        Raises ContextExceeded for an output that cannot fit whatever the prompt is. A prompt that is too
        long is the upstream's to refuse, since only it can count.
        """
        await trio.lowlevel.checkpoint()
        blocks = blocks_of(request)
        size = self._measure.size_bytes(request)
        prompt_tokens = self._measure.tokens(size)
        limit = self.fleet.ctx_tokens
        wanted = request.max_tokens
        if wanted is not None and wanted >= limit and not request.is_clipped:
            beside = f" and {wanted} of output"
            raise prompt_too_long(min(prompt_tokens, limit - 1), limit, beside=beside, param="max_tokens")
        if wanted is None:
            max_tokens = max(1, limit - prompt_tokens)
        elif request.is_clipped:  # some refuse more than there is room for, so a guess leaves a little
            max_tokens = min(wanted, max(1, limit - round(LEAVING_SHARE * prompt_tokens) - LEAVING_TOKENS))
        else:
            max_tokens = wanted
        output = EXPECTED_TOKENS if wanted is None else wanted
        return UpstreamPrepared(
            request, Wanted(prompt_tokens, size, output, blocks, request.session), max_tokens
        )

    def cached_tokens(self, prepared: Prepared) -> int:
        """Upstreams do not say; a replica that may know the prompt is preferred when it is chosen."""
        return 0

    def submit(self, prepared: Prepared, choice: int, sink: Sink, *, max_tokens: int) -> _Sequence:
        """Start a sequence. The caller holds one of the free slots, and `prepared` is of this engine.

        Raises EngineFailed if the engine is not running.
        """
        if not isinstance(prepared, UpstreamPrepared):
            raise TypeError(f"a request that was prepared elsewhere: {prepared!r}")
        if self._nursery is None:
            raise EngineFailed("the engine is not running")
        self._numbers += 1
        sequence = _Sequence(prepared, choice, sink, max_tokens, f"corral-{id(self):x}-{self._numbers}")
        self._open.add(sequence)
        self._nursery.start_soon(self._run, sequence)
        return sequence

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the sequences' tasks and those that look at replicas, until cancelled.

        Cancelling resets every connection at once.
        """
        async with trio.open_nursery() as nursery:
            for replica in self.fleet.replicas:
                nursery.start_soon(replica.run)
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def check_idle(self) -> None:
        """Assert that nothing is left of any sequence; for tests."""
        assert not self._open, f"{len(self._open)} sequences are open"
        for replica in self.fleet.replicas:
            assert not replica.in_flight, f"{replica.in_flight} leases of {replica.name} are left"
            assert not replica.work, f"{replica.work} tokens of work are left at {replica.name}"

    def _add(self, upstream: UpstreamOptions) -> Replica:
        self._added += 1
        if upstream.address.is_tls and self._tls is None:
            self._tls = ssl.create_default_context()
        tls = self._tls if upstream.address.is_tls else None
        replica = Replica(self._added, upstream, self._options, tls, lambda: self.fleet.on_change())
        self.fleet.replicas.append(replica)
        return replica

    def _slots_changed(self) -> None:
        """A slot of a replica is free, or the replica takes more or less than before."""
        self._freed.unpark_all()
        if (slots := self.fleet.slots) != self._told_slots:
            self._told_slots = slots
            for callback in self.on_capacity:
                callback()

    async def _run(self, sequence: _Sequence) -> None:
        """One sequence, from its first attempt to its release."""
        waste = Waste()
        try:
            waste = await self._serve(sequence)
        except Fault as fault:
            sequence.tell([Failed(fault.error)])
        except Exception:
            logger.exception("a sequence failed by a bug")
            sequence.tell([Failed(CorralError("internal error"))])
        finally:
            self._open.discard(sequence)
        sequence.released(waste)  # not where the engine ends: nobody is told anything any more

    async def _serve(self, sequence: _Sequence) -> Waste:
        """Attempts, until one is over. Raises the Fault of the last."""
        failed_at: Replica | None = None
        last: Fault | None = None
        for _ in range(ATTEMPTS):
            attempt = _Attempt(self, sequence)
            try:
                return await attempt.made(without=failed_at)
            except Fault as fault:
                last = last or fault
                if attempt.lease is None:  # there is nobody else
                    break
                failed_at = attempt.lease.replica
                failed_at.failed(fault)
                last = fault
                if attempt.has_begun or not fault.elsewhere or sequence.is_cancelled:
                    break
        assert last is not None
        raise last

    async def place(self, sequence: _Sequence, without: Replica | None) -> tuple[Replica, int]:
        """A replica with a slot free, and the work that the sequence is there; a checkpoint.

        The caller takes the lease with no checkpoint between. Raises Fault if there is nobody else.
        """
        wanted = sequence.prepared.wanted
        while True:
            picked = self.fleet.pick(wanted, without=without)
            if picked is not None:
                return picked.replica, max(1, wanted.work - picked.known_tokens)
            if not self.fleet.can_serve(without):
                raise Fault(none_left(), elsewhere=False, blames=False)
            await self._freed.park()

    def measured(self, prepared: UpstreamPrepared, prompt_tokens: int) -> None:
        """An upstream has said how long a prompt was."""
        self._measure.learn(prepared.wanted.prompt_bytes, prompt_tokens)

    def deadline_s(self) -> float:
        """Until when the next word of a sequence has to come."""
        silence_s = self._options.upstream_silence_s
        return trio.current_time() + silence_s if silence_s else float("inf")


class _Attempt:
    """One try of one sequence at one replica."""

    def __init__(self, engine: UpstreamEngine, sequence: _Sequence) -> None:
        self._engine = engine
        self._sequence = sequence
        self._answer = Answer(sequence.prepared.request, sequence.prepared.prompt_tokens)
        self.lease: Lease | None = None
        self._was_asked = False

    @property
    def has_begun(self) -> bool:
        return self._answer.has_begun

    async def made(self, without: Replica | None) -> Waste:
        """Make it; what of it was in vain. Raises Fault."""
        sequence = self._sequence
        with sequence.enter(trio.CancelScope()):
            replica, work = await self._engine.place(sequence, without)
        if sequence.is_cancelled:
            return Waste()
        with replica.lease(work) as self.lease:
            sequence.tell([Placed(replica.name)])
            scope = self.lease.scope
            scope.deadline = self._engine.deadline_s()
            with sequence.enter(scope), closing(replica.exchange()) as exchange:
                await self._heard_out(replica, exchange)
                return Waste()
            if not sequence.is_cancelled:
                raise broken("does not answer any more" if self.lease.cut else "said nothing for too long")
            self.lease.begun = False  # from now on what is computed for it is for nobody
            if not self._was_asked:
                return Waste()
            await replica.abort(sequence.id)
            return Waste(residual_s=await replica.residue.gone())

    async def _heard_out(self, replica: Replica, exchange: Exchange) -> None:
        """Ask, and tell what is answered until that is whole. Raises Fault."""
        sequence = self._sequence
        request = sequence.prepared.request
        try:
            check(request, replica.kind)
        except InvalidRequest as error:  # it was not known yet when the request was checked
            raise Fault(error, blames=False) from None
        is_limited = request.max_tokens is not None or sequence.max_tokens < sequence.prepared.max_tokens
        body = body_of(
            request,
            replica.kind,
            model=replica.model,
            choice=sequence.choice,
            max_tokens=sequence.max_tokens if is_limited else None,
            id=sequence.id,
        )
        self._was_asked = True
        head = await exchange.ask(
            Ask(path_of(request), replica.upstream.key, body, sequence.id, "text/event-stream")
        )
        await self._check(head, exchange)
        reader, size = EventReader(EVENT_BYTES), 0
        while not self._answer.is_over and (piece := await exchange.receive()):
            size += len(piece)
            if size > ANSWER_BYTES:
                raise broken("sent more than an answer can be")
            try:
                frames = reader.feed(piece)
            except EventTooLarge:
                raise broken("sent an event that is too large") from None
            events: list[Event] = []
            for frame in frames:
                events += self._answer.feed(frame)
            if frames:
                self._heard(events, is_limited)
        events = self._answer.end()
        finished = events[-1]
        assert isinstance(finished, Finished)
        self._engine.measured(sequence.prepared, finished.usage.prompt_tokens)
        sequence.tell(events)
        replica.succeeded()
        with trio.move_on_after(GOODBYE_S), suppress(Fault):
            while await exchange.receive():
                pass

    async def _check(self, head: Head, exchange: Exchange) -> None:
        if head.status != 200:
            body = await exchange.body(ERROR_BYTES)
            raise fault_of_answer(head.status, body, head.headers.get("retry-after", ""))
        if head.media_type != "text/event-stream":
            raise broken("answered with something else than the stream that it was asked for")

    def _heard(self, events: list[Event], is_limited: bool) -> None:
        """Some of the stream has come, though perhaps nothing to be told."""
        sequence, lease, answer = self._sequence, self.lease, self._answer
        assert lease is not None
        lease.replica.heard()
        lease.scope.deadline = self._engine.deadline_s()
        if is_limited and answer.sampled_tokens > sequence.max_tokens + OVER:
            raise broken("went on past the limit of the answer")
        wanted = sequence.prepared.wanted
        left_output = max(0, min(wanted.output_tokens, EXPECTED_TOKENS) - answer.sampled_tokens)
        left = OUTPUT_WEIGHT * left_output
        if not answer.has_begun:
            prefill = next((event for event in reversed(events) if isinstance(event, Prefill)), None)
            left += wanted.prompt_tokens if prefill is None else prefill.total - prefill.done
        lease.heard(left)
        if events:
            sequence.tell(events)


def _without_path(model: str) -> str:
    return PurePosixPath(model).name if model.startswith("/") else model


def _call(callback: Callable[..., None], *args: object) -> None:
    # An exception here would end the engine: a bug in one sink must not end the server.
    try:
        callback(*args)
    except Exception:
        logger.exception("a sink raised")
