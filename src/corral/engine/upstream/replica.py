"""One upstream among those of a model: what it takes, what it has, and whether it is given anything.

What is in flight is counted by scope (`lease`), so nothing can be counted twice, or for ever. Nothing here
waits but `run` and `busy`.
"""

import logging
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, Literal

import msgspec
import trio

from corral.engine.contract import ReplicaState
from corral.engine.upstream.breaker import Breaker
from corral.engine.upstream.discovery import Found, discover
from corral.engine.upstream.exchange import Ask, Exchange, fetch
from corral.engine.upstream.faults import Fault
from corral.engine.upstream.kinds import KINDS, Kind
from corral.engine.upstream.options import FleetOptions, UpstreamOptions
from corral.engine.upstream.residue import Residue
from corral.engine.upstream.slots import busy_of
from corral.engine.upstream.trial import try_out
from corral.printable import one_line

logger = logging.getLogger("corral.upstream")

OUTPUT_WEIGHT: Final = 4
"""What a token to be said weighs against one of a prompt: it takes a step of its own."""
UNKNOWN_CTX_TOKENS: Final = 2**20
"""Of one request, where an upstream does not say: then it refuses what is too long."""
MODEL_CHARS: Final = 256
"""Of its model's name, that are shown."""
METRICS_BYTES: Final = 4 * 2**20
LONGEST_TRY_S: Final = 300.0
"""For which nothing may be heard of one that is tried, where requests have no such limit."""


class Lease:
    """One sequence's slot at a replica, and the work that is left of it, in tokens of prompt."""

    __slots__ = ("asked", "cut", "left", "replica", "scope")

    def __init__(self, replica: "Replica", left: int) -> None:
        self.replica = replica
        self.left = left
        self.asked = False
        """The upstream was asked for it, and has it in a slot: it is given no more than those."""
        self.cut = False
        """The replica was given up while it had this."""
        self.scope = trio.CancelScope()
        """Of what is done there for it."""

    def heard(self, left: int) -> None:
        """It goes on, and that much is left."""
        self.replica.work += left - self.left
        self.left = left


class Replica:
    """`on_change` is called when it takes more or less than before, or is free again; it may not block."""

    def __init__(
        self,
        number: int,
        upstream: UpstreamOptions,
        options: FleetOptions,
        tls: ssl.SSLContext | None,
        on_change: Callable[[], None],
    ) -> None:
        self.number = number
        self.upstream = upstream
        self.name = upstream.address.name
        self.found: Found | None = None
        self.breaker = Breaker(trio.current_time)
        self.is_draining = False
        self.is_leaving = False
        """It is not configured any more, and is gone with the last that it has."""
        self.scope = trio.CancelScope()
        """Of `run`."""
        self.work = 0
        """Left of all that is in flight."""
        self.picked = 0
        """When it was last picked, counted in picks."""
        self.served = 0
        self.affinity_hits = 0
        self.shared = False
        """Others use it too: then what it computes says nothing about who has left here."""
        self.residue = Residue(
            self.busy,
            lambda: self.tells_busy,
            lambda: sum(lease.asked for lease in self._leases),
            self._seems_shared,
        )
        self._options = options
        self._tls = tls
        self._on_change = on_change
        self._leases: set[Lease] = set()
        self._heard_s = 0.0
        self._woken = trio.Event()
        self._emptied = trio.lowlevel.ParkingLot()
        self._out_since: float | None = None
        self._can_look = True
        self._trying = trio.CancelScope()

    # What is known

    @property
    def kind(self) -> Kind:
        return KINDS[self.upstream.kind or "openai"] if self.found is None else self.found.kind

    @property
    def model(self) -> str:
        """What it is asked for."""
        return "" if self.found is None else self.found.model

    @property
    def shown_model(self) -> str:
        """That, for people: what an upstream calls its model may drive a terminal, or fill it."""
        return one_line(self.model)[:MODEL_CHARS]

    @property
    def slots(self) -> int:
        """Sequences that it takes at a time, in service or not."""
        found = None if self.found is None else self.found.slots
        return self.upstream.slots or found or self._options.replica_slots

    @property
    def ctx_tokens(self) -> int:
        """Of one request."""
        found = None if self.found is None else self.found.ctx_tokens
        return found or self._options.replica_ctx_tokens or UNKNOWN_CTX_TOKENS

    @property
    def in_flight(self) -> int:
        return len(self._leases)

    @property
    def is_in_service(self) -> bool:
        """Whether it is given requests."""
        is_given_up = self.found is None or not self.breaker.is_closed
        return not (is_given_up or self.is_draining or self.is_leaving)

    @property
    def free_slots(self) -> int:
        return self.slots - len(self._leases) if self.is_in_service else 0

    # What happens to it

    @contextmanager
    def lease(self, left: int) -> Iterator[Lease]:
        """Hold one of its slots for work of so many tokens, until the block ends."""
        lease = Lease(self, left)
        self._leases.add(lease)
        self.work += left
        if len(self._leases) == 1:
            self.heard()  # it was not expected to say anything before
        try:
            yield lease
        finally:
            self._leases.remove(lease)
            self._emptied.unpark_all()
            self.work -= lease.left
            self.served += 1
            self._on_change()

    def heard(self) -> None:
        """It says something, so it is there."""
        self._heard_s = trio.current_time()

    def succeeded(self) -> None:
        self.heard()
        self.breaker.succeeded()

    def failed(self, fault: Fault) -> None:
        """An attempt failed; whether that counts is the fault's to say."""
        if fault.blames and self.breaker.failed(fault.error.message):
            logger.warning("%s is given nothing for a while: %s", self.name, self.breaker.reason)
            self._out_since = time.time()
            self._changed()

    def set_draining(self, is_draining: bool) -> None:
        """Give it nothing more, or requests again; what it has goes on."""
        if is_draining is not self.is_draining:
            self.is_draining = is_draining
            logger.info("%s is %s", self.name, "given nothing more" if is_draining else "given requests")
            self._changed()

    def leave(self) -> None:
        """Give it nothing more, since it is not configured any more."""
        self.is_leaving = True
        logger.info("%s is given nothing more, and leaves", self.name)
        self._changed()

    def become(self, upstream: UpstreamOptions, tls: ssl.SSLContext | None) -> bool:
        """It is configured, perhaps again, or otherwise than before; what it has goes on, and counts.

        Whether it is to be asked anew what it is, by `find`.
        """
        self.is_leaving = False
        is_other = upstream != self.upstream
        if is_other:
            self.upstream, self._tls = upstream, tls
            self.breaker.retry_s = trio.current_time()
            self._trying.cancel()
        self._changed()
        return is_other and self.breaker.is_closed

    async def wait_idle(self) -> None:
        """Until it has nothing in flight; a checkpoint, cancel-safe."""
        await trio.lowlevel.checkpoint()
        while self._leases:
            await self._emptied.park()

    def state(self) -> ReplicaState:
        """As people see it."""
        breaker = self.breaker
        state: Literal["in service", "draining", "out", "tried"] = "in service"
        if self.is_draining or self.is_leaving:
            state = "draining"
        elif not self.is_in_service:
            state = "tried" if breaker.state == "half-open" else "out"
        return ReplicaState(
            self.name,
            self.kind.name,
            self.shown_model,
            state,
            self.slots,
            len(self._leases),
            self.upstream.weight,
            self.work,
            self.served,
            self.affinity_hits,
            breaker.openings,
            round(self.residue.total_s, 3),
            breaker.reason,
            self._out_since,
        )

    async def find(self) -> None:
        """Ask what it is; a checkpoint, and never raises. One that does not answer is out of service."""
        try:
            with trio.fail_after(self._options.upstream_probe_s):
                await self._discover()
        except Exception as error:
            self.breaker.open(_said(error))
            self._out_since = time.time()
        self.heard()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look at it when it is silent, and try it again when it was given up, until cancelled."""
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.residue.run)
                task_status.started()
                await self._watch()

    async def _watch(self) -> None:
        while True:
            self._woken = trio.Event()
            if self.breaker.is_closed:
                due_s = self._heard_s + self._options.upstream_probe_s
            else:
                due_s = self.breaker.retry_s
            with trio.move_on_at(due_s) as scope:
                await self._woken.wait()
            if not scope.cancelled_caught:
                continue
            if not self.breaker.is_closed:
                await self._try_again()
            elif trio.current_time() >= self._heard_s + self._options.upstream_probe_s:
                await self._look()

    @property
    def tells_busy(self) -> bool:
        """Whether what it computes can be seen, and is only ours."""
        can_look = self.kind.slots is not None and self._can_look
        return can_look and not self.shared and self.breaker.is_closed

    async def busy(self) -> int | None:
        """How many sequences it says it computes; None if it does not say. A checkpoint; never raises.

        It may take as long as a step of the upstream: llama-server answers between steps.
        """
        kind = self.kind
        if kind.slots is None or not self._can_look:
            await trio.lowlevel.checkpoint()
            return None
        try:
            status, body = await self._fetch(kind.slots)
        except Exception as error:
            logger.debug("%s does not say what it computes: %s", self.name, _said(error))
            return None
        busy = busy_of(kind, status, body)
        # One whose operator has turned that off says 501, and one that has no such thing 404.
        self._can_look = busy is not None or status in (500, 502, 503, 504)
        return busy

    async def abort(self, id: str) -> None:
        """Tell it that a request is over, where it can be told; a checkpoint, and never raises."""
        if self.kind.aborts_at is None:
            return
        body = msgspec.json.encode({"rid": id})
        try:
            with trio.fail_after(self._options.upstream_probe_s):
                ask = Ask(self.kind.aborts_at, self.upstream.key, body)
                await fetch(self.upstream.address, self._tls, ask, limit_bytes=METRICS_BYTES)
        except (Fault, trio.TooSlowError):
            logger.debug("%s was told that %s is over, and did not answer", self.name, id)

    def exchange(self) -> Exchange:
        """A connection to it, which its user closes."""
        return Exchange(self.upstream.address, self._tls)

    async def _look(self) -> None:
        """See whether it is there. An answer of any kind says so; of who has nothing to do, its slots too."""
        try:
            with trio.fail_after(self._options.upstream_probe_s):
                status, _ = await self._fetch(self.kind.health)
        except Exception as error:
            self._give_up(_said(error))
            return
        if status >= 500 and not self._leases:
            self._give_up(f"it says that it is not well (HTTP {status})")
            return
        self.heard()
        if not self._leases:
            idle = None
            with trio.move_on_after(self._options.upstream_probe_s):
                idle = await self.busy()
            if not self._leases and not self.residue.waiting and idle is not None:
                self.shared = idle > 0

    async def _try_again(self) -> None:
        """The one request of a half-open breaker: a token, since being there is not being able to."""
        self.breaker.half_open()
        with trio.CancelScope() as self._trying:
            try:
                with trio.fail_after(self._options.upstream_probe_s):
                    await self._discover()
                silence_s = self._options.upstream_silence_s or LONGEST_TRY_S
                await try_out(self.exchange(), self.kind, self.model, self.upstream.key, silence_s)
            except Exception as error:
                self.breaker.open(_said(error))
                return
        if self._trying.cancelled_caught:
            self.breaker.open("it is configured otherwise now")
            self.breaker.retry_s = trio.current_time()
            return
        logger.info("%s answers again", self.name)
        self._can_look = True
        self.breaker.close()
        self._out_since = None
        self.heard()
        self._changed()

    def lacks_completions(self) -> None:
        """It has no `/v1/completions`, which is known until it is asked anew what it is."""
        if self.found is not None:
            self.found = replace(self.found, kind=replace(self.found.kind, has_completions=False))

    async def _discover(self) -> None:
        upstream = self.upstream
        found = await discover(upstream, self._tls)
        if upstream is self.upstream:  # else that has been asked anew
            self.found = found

    async def _fetch(self, path: str) -> tuple[int, bytes]:
        ask = Ask(path, self.upstream.key)
        return await fetch(self.upstream.address, self._tls, ask, limit_bytes=METRICS_BYTES)

    def _seems_shared(self) -> None:
        """It computes more than what is ours, and that does not end."""
        self.shared = True
        logger.info("%s is used by others too: nobody waits until it computes less", self.name)

    def _give_up(self, reason: str) -> None:
        """It is not there: what it has is lost."""
        logger.warning("%s is given nothing for a while: %s", self.name, reason)
        self.breaker.open(reason)
        self._out_since = time.time()
        for lease in tuple(self._leases):
            lease.cut = True
            lease.scope.cancel()
        self._changed()

    def _changed(self) -> None:
        if not self.breaker.is_closed:
            self.residue.give_up()
        self._woken.set()
        self._on_change()


def _said(error: Exception) -> str:
    """Why it is given up. A bug in asking it must not end the server, so that is one of the reasons."""
    if isinstance(error, Fault):
        return error.error.message
    if isinstance(error, trio.TooSlowError):
        return "it does not answer"
    logger.error("an upstream could not be asked, by a bug", exc_info=error)
    return "this server failed to ask it"
