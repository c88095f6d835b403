"""corral's own routing over many replicas, in virtual time: nothing is computed, and nobody waits.

Replicas have slots, a speed for prompts and one for answers, and a cache of their own that forgets what was
unused longest, which routing does not see. Requests are turns of conversations; a share of them begins with
the same long system prompt, which would melt a replica that got all of them. Who finds no slot free waits in
one line. What is asked, and when a conversation goes on, is the same whatever the policy. Fleet and Affinity
are those of the server.
"""

import heapq
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from statistics import mean

import msgspec

from corral.engine.upstream.address import address_of
from corral.engine.upstream.affinity import Block
from corral.engine.upstream.discovery import Found
from corral.engine.upstream.fleet import Fleet, Wanted
from corral.engine.upstream.kinds import KINDS
from corral.engine.upstream.options import FleetOptions, UpstreamOptions
from corral.engine.upstream.replica import Lease, Replica
from tools.sheets.summary import percentile

SLOTS = 16
PREFILL_TOK_S = 4000.0
DECODE_TOK_S = 40.0
"""Of a sequence where all slots are taken; alone it has twice as much."""
OUTPUT_TOKENS = (60, 400)
BLOCK_TOKENS = 128
CACHE_BLOCKS = 1500
"""Of a replica, beside what runs: some 190,000 tokens."""
HOT_BLOCKS = 24
"""Of the system prompt that a share of all conversations begins with."""
HOT_SHARE = 0.5
TURNS = 5
BYTES_PER_TOKEN = 4

Pick = Callable[[Fleet, Wanted], Replica | None]


def routed(fleet: Fleet, wanted: Wanted) -> Replica | None:
    """As the server does it."""
    picked = fleet.pick(wanted)
    return None if picked is None else picked.replica


def least_work(fleet: Fleet, wanted: Wanted) -> Replica | None:
    """By what is left to do alone, as if no beginning were known."""
    return routed(fleet, Wanted(wanted.prompt_tokens, 0, wanted.output_tokens))


def most_known(fleet: Fleet, wanted: Wanted) -> Replica | None:
    """By beginnings alone: where most of the prompt is known, as long as a slot is free there."""
    known = fleet.affinity.known_bytes(wanted.blocks)
    free = [replica for replica in fleet.replicas if replica.free_slots]
    if not free:
        return None
    picked = max(free, key=lambda replica: (known.get(replica.number, 0), -replica.work))
    fleet.affinity.note(wanted.blocks, picked.number)
    return picked


POLICIES: dict[str, Pick] = {"corral": routed, "least work": least_work, "most known": most_known}


class RoutingRow(msgspec.Struct, frozen=True):
    """A policy on so many replicas. `imbalance`: the busiest replica's slots, over the mean of all."""

    replicas: int
    policy: str
    requests: int
    ttft_p50_s: float
    ttft_p95_s: float
    answer_p95_s: float
    cached_share: float
    imbalance: float
    decision_us: float
    hashes: int
    """That are known in the end, of at most KEPT_HASHES."""


@dataclass(slots=True)
class _Talk:
    """A conversation, by the blocks of its prompt so far."""

    number: int
    blocks: list[bytes]
    chance: random.Random
    turns: int = 0


@dataclass(slots=True)
class _Cache:
    """What a replica has computed and not forgotten."""

    blocks: OrderedDict[bytes, None] = field(default_factory=OrderedDict)

    def found(self, blocks: list[bytes]) -> int:
        count = next((index for index, block in enumerate(blocks) if block not in self.blocks), len(blocks))
        for block in reversed(blocks):
            self.blocks.pop(block, None)
            self.blocks[block] = None
        while len(self.blocks) > CACHE_BLOCKS:
            self.blocks.popitem(last=False)
        return count


@dataclass(slots=True, order=True)
class _Due:
    at_s: float
    order: int
    then: Callable[[], None] = field(compare=False)


class _World:
    def __init__(self, replicas: int, policy: Pick, requests: int, share: float, seed: int) -> None:
        self.now_s = 0.0
        self.fleet = Fleet(lambda: None)
        for number in range(replicas):
            upstream = UpstreamOptions(address_of(f"http://replica-{number}:1"))
            replica = Replica(number, upstream, FleetOptions(), None, lambda: None)
            replica.found = Found(KINDS["vllm"], "m", SLOTS, 10**6)
            self.fleet.replicas.append(replica)
        self.caches = [_Cache() for _ in range(replicas)]
        self.busy_s = [0.0] * replicas
        self.ttft_s: list[float] = []
        self.answer_s: list[float] = []
        self.prompt_blocks = self.cached_blocks = 0
        self.decided_s = 0.0
        self.decisions = 0
        self._policy = policy
        self._left = requests
        self._seed = seed
        self._chance = random.Random(seed)
        self._line: deque[tuple[float, _Talk, int]] = deque()
        self._due: list[_Due] = []
        self._order = 0
        self._talks = 0
        output = mean(OUTPUT_TOKENS)
        prompt = BLOCK_TOKENS * (HOT_SHARE * HOT_BLOCKS + 2 * TURNS)
        lasts_s = output / DECODE_TOK_S + 0.3 * prompt / PREFILL_TOK_S
        self._rate = share * replicas * SLOTS / lasts_s
        self._at(0.0, self._arrive)

    def run(self) -> None:
        while self._due:
            due = heapq.heappop(self._due)
            self.now_s = due.at_s
            due.then()

    def _at(self, delay_s: float, then: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._due, _Due(self.now_s + delay_s, self._order, then))

    def _arrive(self) -> None:
        self._talks += 1
        hot = self._chance.random() < HOT_SHARE
        beginning = [b"hot %d" % index for index in range(HOT_BLOCKS)] if hot else []
        self._ask(_Talk(self._talks, beginning, random.Random(f"{self._seed} {self._talks}")))
        if self._left > 0:
            self._at(self._chance.expovariate(self._rate / TURNS), self._arrive)

    def _ask(self, talk: _Talk) -> None:
        if self._left <= 0:
            return
        self._left -= 1
        talk.turns += 1
        talk.blocks += [b"%d %d %d" % (talk.number, talk.turns, index) for index in range(3)]
        self._line.append((self.now_s, talk, talk.chance.randint(*OUTPUT_TOKENS)))
        self._serve()

    def _serve(self) -> None:
        while self._line:
            asked_s, talk, output = self._line[0]
            size = len(talk.blocks) * BLOCK_TOKENS
            blocks = tuple(
                Block(block, (index + 1) * BLOCK_TOKENS * BYTES_PER_TOKEN)
                for index, block in enumerate(talk.blocks)
            )
            wanted = Wanted(size, size * BYTES_PER_TOKEN, output, blocks)
            began_s = time.thread_time()
            replica = self._policy(self.fleet, wanted)
            self.decided_s += time.thread_time() - began_s
            self.decisions += 1
            if replica is None:
                return
            self._line.popleft()
            self._start(asked_s, talk, replica, wanted)

    def _start(self, asked_s: float, talk: _Talk, replica: Replica, wanted: Wanted) -> None:
        found = self.caches[replica.number].found(talk.blocks)
        self.prompt_blocks += len(talk.blocks)
        self.cached_blocks += found
        # What runs beside it takes its share: a full replica is half as quick for each.
        crowd = (1 + replica.in_flight / SLOTS) / 2
        prefill_s = (len(talk.blocks) - found) * BLOCK_TOKENS / PREFILL_TOK_S * crowd
        decode_s = wanted.output_tokens / DECODE_TOK_S * crowd
        holding = replica.lease(max(1, wanted.work - found * BLOCK_TOKENS))
        lease = holding.__enter__()
        self.ttft_s.append(self.now_s - asked_s + prefill_s)
        self.answer_s.append(self.now_s - asked_s + prefill_s + decode_s)
        self.busy_s[replica.number] += prefill_s + decode_s
        self._at(prefill_s, lambda: lease.heard(4 * wanted.output_tokens))
        self._at(prefill_s + decode_s, lambda: self._end(talk, holding))

    def _end(self, talk: _Talk, holding: AbstractContextManager[Lease]) -> None:
        holding.__exit__(None, None, None)
        if talk.turns < TURNS:
            self._at(talk.chance.expovariate(1 / 10.0), lambda: self._ask(talk))
        self._serve()


def simulate(replicas: int, policy: str, requests: int, *, share: float = 0.8, seed: int = 1) -> RoutingRow:
    """So many requests at `share` of what the replicas can do. Runs in trio, and takes none of its time."""
    world = _World(replicas, POLICIES[policy], requests, share, seed)
    world.run()
    return RoutingRow(
        replicas=replicas,
        policy=policy,
        requests=requests,
        ttft_p50_s=percentile(world.ttft_s, 0.5),
        ttft_p95_s=percentile(world.ttft_s, 0.95),
        answer_p95_s=percentile(world.answer_s, 0.95),
        cached_share=world.cached_blocks / max(1, world.prompt_blocks),
        imbalance=max(world.busy_s) / mean(world.busy_s),
        decision_us=1e6 * world.decided_s / max(1, world.decisions),
        hashes=len(world.fleet.affinity),
    )
