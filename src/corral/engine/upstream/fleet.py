"""All replicas of a model, and which of them gets a request.

It goes where it will be through first: by the work that is left there, plus what of its prompt is not known
there, over the replica's weight. What is left there is done beside it, while what of its prompt is not known
must be computed before it can begin: so that counts PROMPT_WEIGHT times. A session keeps its replica as if
that had all of its prompt, and an answer's work less to do.

A beginning that many have would draw all of them to one replica. So no replica is given more than
LOAD_BOUND times its share of what runs, as long as another has room: then the beginning is computed there
too, and draws from there on.

Source: Mirrokni, Thorup, Zadimoghaddam: Consistent Hashing with Bounded Loads (2016), for the bound.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from corral.engine.upstream.affinity import Affinity, Block
from corral.engine.upstream.faults import Fault, none_left
from corral.engine.upstream.replica import OUTPUT_WEIGHT, Replica

PROMPT_WEIGHT: Final = 10
LOAD_BOUND: Final = 1.25
FEW: Final = 2
"""So many sequences are no load that a beginning should be computed elsewhere for."""
EXPECTED_TOKENS: Final = 512
"""What an answer is taken to have at most, where its limit says nothing."""
KEPT_SESSIONS: Final = 2**16


@dataclass(frozen=True, slots=True)
class Wanted:
    """What routing knows of a request."""

    prompt_tokens: int
    prompt_bytes: int
    output_tokens: int
    blocks: Sequence[Block] = ()
    session: str | None = None

    @property
    def work(self) -> int:
        """Of which nothing is known anywhere, in tokens of prompt."""
        return self.prompt_tokens + OUTPUT_WEIGHT * min(self.output_tokens, EXPECTED_TOKENS)


@dataclass(frozen=True, slots=True)
class Picked:
    """A replica, and how many tokens of the prompt it has probably computed."""

    replica: Replica
    known_tokens: int


class Fleet:
    """Only `place` waits. `on_change` is called when slots come or go; it may not block or raise."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.replicas: list[Replica] = []
        self.affinity = Affinity()
        self.picks = 0
        self.hits = 0
        """Picks of a replica that had at least a block of the prompt."""
        self.on_change = on_change
        self._sessions: OrderedDict[str, int] = OrderedDict()
        self._freed = trio.lowlevel.ParkingLot()

    @property
    def slots(self) -> int:
        """Of all that are in service, and those that others hold yet.

        Who is admitted holds one of these wherever it runs. Without those of replicas that are given nothing
        more, what runs there would take slots from the others.
        """
        return sum(
            max(replica.slots, replica.in_flight) if replica.is_in_service else replica.in_flight
            for replica in self.replicas
        )

    @property
    def ctx_tokens(self) -> int:
        """What every replica takes of one request."""
        known = [replica.ctx_tokens for replica in self.replicas if replica.found is not None]
        return min(known or [replica.ctx_tokens for replica in self.replicas])

    def pick(self, wanted: Wanted, *, without: Replica | None = None) -> Picked | None:
        """Where a request goes; None if no replica has a slot free just now."""
        home = None if wanted.session is None else self._sessions.get(wanted.session)
        with_room = self._with_room(without, home)
        if not with_room:
            return None
        known = self._known_tokens(wanted)

        def left(replica: Replica) -> tuple[float, int]:
            unknown = wanted.prompt_tokens - known.get(replica.number, 0)
            work = replica.work + PROMPT_WEIGHT * unknown
            if replica.number == home:
                work = replica.work - OUTPUT_WEIGHT * EXPECTED_TOKENS
            return work / replica.upstream.weight, replica.picked

        picked = min(with_room, key=left)
        self.picks += 1
        picked.picked = self.picks
        known_tokens = known.get(picked.number, 0)
        if known_tokens:
            self.hits += 1
            picked.affinity_hits += 1
        self.affinity.note(wanted.blocks, picked.number)
        if wanted.session is not None:
            self._sessions[wanted.session] = picked.number
            self._sessions.move_to_end(wanted.session)
            while len(self._sessions) > KEPT_SESSIONS:
                self._sessions.popitem(last=False)
        return Picked(picked, known_tokens)

    def _with_room(self, without: Replica | None, home: int | None) -> list[Replica]:
        """Those with a slot free and less than their bounded share of what runs; else all with a slot.

        A session's own replica has room as long as it has a slot.
        """
        free: list[tuple[Replica, int]] = []
        running, weight = 1, 0.0
        for replica in self.replicas:
            if replica.is_in_service:
                in_flight = replica.in_flight
                running += in_flight
                weight += replica.upstream.weight
                if in_flight < replica.slots and replica is not without:
                    free.append((replica, in_flight))
        most = LOAD_BOUND * running / weight if free else 0.0
        bounded = [
            replica
            for replica, in_flight in free
            if in_flight < max(FEW, math.ceil(most * replica.upstream.weight)) or replica.number == home
        ]
        return bounded or [replica for replica, _ in free]

    async def place(self, wanted: Wanted, *, without: Replica | None) -> tuple[Replica, int]:
        """A replica with a slot free, and the work that the request is there; a checkpoint, cancel-safe.

        The caller takes the lease with no checkpoint between. Raises Fault if there is nobody else.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            picked = self.pick(wanted, without=without)
            if picked is not None:
                return picked.replica, max(1, wanted.work - picked.known_tokens)
            if not self.can_serve(without):
                raise Fault(none_left(), elsewhere=False, blames=False)
            await self._freed.park()

    def freed(self) -> None:
        """A slot of a replica is free, or there are more of them or fewer."""
        self._freed.unpark_all()

    def remove(self, replica: Replica) -> None:
        """It is gone, and what was known of it."""
        self.replicas.remove(replica)
        self.affinity.forget(replica.number)

    def can_serve(self, without: Replica | None = None) -> bool:
        """Whether some replica is in service, free or not."""
        return any(replica.is_in_service and replica is not without for replica in self.replicas)

    def _known_tokens(self, wanted: Wanted) -> dict[int, int]:
        if not wanted.prompt_bytes:
            return {}
        share = wanted.prompt_tokens / wanted.prompt_bytes
        return {
            number: min(wanted.prompt_tokens, round(share * known))
            for number, known in self.affinity.known_bytes(wanted.blocks).items()
        }
