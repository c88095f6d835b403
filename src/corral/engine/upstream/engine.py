"""An Engine (see engine.contract) of servers elsewhere: each sequence is a request to one of them.

A sequence is one task. It holds a slot of a replica by scope, and a connection of its own by another within;
cancelling it leaves the inner one, which resets the connection, and then, still holding the slot, it waits
until the upstream computes nothing for it any more, where that can be seen. An attempt that fails before
anything of the answer was heard is made once more at another replica. After that only for a client that has
got nothing, since it wants the answer whole; or the rest is asked for there, where that is wanted and can be.
"""

import logging
import secrets
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

import trio

from corral.engine.contract import Capacity, Prepared, ReplicaState, Sink, Waste
from corral.engine.upstream.affinity import blocks_of
from corral.engine.upstream.ask import check
from corral.engine.upstream.attempt import Attempt
from corral.engine.upstream.continuing import Rest, rest_of
from corral.engine.upstream.faults import Fault, none_left
from corral.engine.upstream.fleet import EXPECTED_TOKENS, Fleet, Wanted
from corral.engine.upstream.measure import Measure
from corral.engine.upstream.options import FleetOptions, UpstreamOptions
from corral.engine.upstream.replica import Replica
from corral.engine.upstream.sequence import UpstreamPrepared, UpstreamSequence
from corral.errors import CorralError, EngineFailed, prompt_too_long
from corral.events import Failed, TakenBack
from corral.request import GenerationRequest

logger = logging.getLogger("corral.upstream")

ATTEMPTS: Final = 2
UNNAMED: Final = "upstream"
"""What the model is called while no upstream has said what it is."""
LEAVING_SHARE: Final = 1.25
LEAVING_TOKENS: Final = 64
"""What a guess of a prompt's length may be short of it, where an output is to be clipped to the rest."""


class UpstreamEngine:
    """Made by `opened`, which asks the upstreams what they are."""

    def __init__(self, options: FleetOptions, tls: ssl.SSLContext | None) -> None:
        self.residence = None
        self.texts = None
        self.embedding = None
        self.holdings = None
        self.chat_template = None
        self.on_capacity: list[Callable[[], None]] = []
        """Called when `capacity.slots` has changed. May not block or raise."""
        self.fleet = Fleet(self._slots_changed)
        self._options = options
        self._tls = tls
        self._measure = Measure()
        self._told_slots = 0
        self._token = secrets.token_hex(4)
        """Of this engine, in the names that upstreams have for its requests."""
        self._open: set[UpstreamSequence] = set()
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
        names += [_without_path(replica.shown_model) for replica in replicas]
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
        found = [each for each in self.fleet.replicas if each.name == replica and not each.is_leaving]
        for each in found:
            each.set_draining(is_draining)
        return bool(found)

    def reconfigure(self, upstreams: Sequence[UpstreamOptions]) -> None:
        """Have these from now on: new ones are asked what they are, and those that are gone are let finish.

        Who they are goes by their names, so one that is described otherwise goes on as that. The engine runs.
        """
        if self._nursery is None:
            raise EngineFailed("the engine is not running")
        there = {replica.name: replica for replica in self.fleet.replicas}
        for upstream in upstreams:
            replica = there.pop(upstream.address.name, None)
            if replica is None:
                self._nursery.start_soon(self._join, self._add(upstream))
            elif replica.become(upstream, self._tls_of(upstream)):
                self._nursery.start_soon(self._ask_anew, replica)
        for replica in there.values():
            if not replica.is_leaving:
                replica.leave()
                self._nursery.start_soon(self._let_finish, replica)

    async def _join(self, replica: Replica) -> None:
        await replica.find()
        self._slots_changed()
        await replica.run()

    async def _ask_anew(self, replica: Replica) -> None:
        await replica.find()
        self._slots_changed()

    async def _let_finish(self, replica: Replica) -> None:
        await replica.wait_idle()
        if not replica.is_leaving or replica not in self.fleet.replicas:
            return  # it has come back, and perhaps gone before
        self.fleet.remove(replica)
        replica.scope.cancel()
        logger.info("%s is gone", replica.name)

    def step_age_s(self) -> float | None:
        """Steps are the upstreams' own; who hangs is found by its silence."""
        return None

    async def load(self) -> None:
        """Models are the upstreams' own."""
        await trio.lowlevel.checkpoint()

    def check(self, request: GenerationRequest) -> None:
        """Refuse what one of the upstreams cannot be asked for, and everything while none answers.

        Raises InvalidRequest or UpstreamFailed.
        """
        if (failure := self.failure) is not None:
            raise failure
        found = [replica.kind for replica in self.fleet.replicas if replica.found is not None]
        found.sort(key=lambda kind: kind.has_completions)  # one of a kind that has them is enough
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

    def submit(self, prepared: Prepared, choice: int, sink: Sink, *, max_tokens: int) -> UpstreamSequence:
        """Start a sequence. The caller holds one of the free slots, and `prepared` is of this engine.

        Raises EngineFailed if the engine is not running.
        """
        if not isinstance(prepared, UpstreamPrepared):
            raise TypeError(f"a request that was prepared elsewhere: {prepared!r}")
        if self._nursery is None:
            raise EngineFailed("the engine is not running")
        self._numbers += 1
        id = f"corral-{self._token}-{self._numbers}"
        sequence = UpstreamSequence(prepared, choice, sink, max_tokens, id)
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
        tls = self._tls_of(upstream)
        replica = Replica(self._added, upstream, self._options, tls, lambda: self.fleet.on_change())
        self.fleet.replicas.append(replica)
        return replica

    def _tls_of(self, upstream: UpstreamOptions) -> ssl.SSLContext | None:
        if upstream.address.is_tls and self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls if upstream.address.is_tls else None

    def _slots_changed(self) -> None:
        """A slot of a replica is free, or the replica takes more or less than before."""
        self.fleet.freed()
        if (slots := self.fleet.slots) != self._told_slots:
            self._told_slots = slots
            for callback in self.on_capacity:
                callback()

    async def _run(self, sequence: UpstreamSequence) -> None:
        """One sequence, from its first attempt to its release."""
        try:
            await self._serve(sequence)
        except Fault as fault:
            sequence.tell([Failed(fault.error)])
        except Exception:
            logger.exception("a sequence failed by a bug")
            sequence.tell([Failed(CorralError("internal error"))])
        finally:
            self._open.discard(sequence)
        sequence.released()  # not where the engine ends: nobody is told anything any more

    async def _serve(self, sequence: UpstreamSequence) -> None:
        """Attempts, until one is over. Raises the Fault that its client is told."""
        failed_at: Replica | None = None
        told: Fault | None = None
        attempt: Attempt | None = self._attempt(sequence)
        for tries_left in reversed(range(ATTEMPTS)):
            assert attempt is not None
            try:
                sequence.waste += await attempt.made(without=failed_at)
                return
            except Fault as fault:
                # Nobody else, or nobody who could go on: then its client has to know why it broke off.
                if told is None or not (attempt.lease is None or attempt.rest is not None):
                    told = fault
                if attempt.lease is None:
                    break
                failed_at = attempt.lease.replica
                failed_at.failed(fault)
                if not tries_left or not fault.elsewhere or sequence.is_cancelled:
                    break
                attempt = self._following(sequence, attempt, failed_at)
                if attempt is None:
                    break
        assert told is not None
        raise told

    def _attempt(self, sequence: UpstreamSequence, rest: Rest | None = None) -> Attempt:
        options = self._options
        return Attempt(
            sequence,
            self.fleet,
            self._measure,
            options.upstream_silence_s,
            rest,
            keeps_text=options.upstream_continues,
        )

    def _following(self, sequence: UpstreamSequence, attempt: Attempt, failed_at: Replica) -> Attempt | None:
        """What is made after an attempt that failed; None if nothing may be."""
        if not attempt.has_begun:
            return self._attempt(sequence)
        if not self.fleet.can_serve(failed_at):
            return None
        request, heard = sequence.prepared.request, attempt.heard
        if request.is_collected:
            logger.info(
                "%s broke off at %s after %d tokens: again", sequence.id, failed_at.name, heard.tokens
            )
            sequence.waste += Waste(thrown_away=heard.tokens)
            sequence.tell([TakenBack()])
            return self._attempt(sequence)
        if not self._options.upstream_continues or attempt.has_ended:
            return None
        rest = rest_of(request, sequence.max_tokens, heard)
        if rest is None:
            return None
        logger.info("%s broke off at %s after %d tokens: on", sequence.id, failed_at.name, heard.tokens)
        return self._attempt(sequence, rest)


def _without_path(model: str) -> str:
    return PurePosixPath(model).name if model.startswith("/") else model
