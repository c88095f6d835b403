"""How long a slot stays taken after its client has left, as /status/json tells it.

residual.py measures the same promise from outside, on any server: how long the next client has to wait.
Both are kept. This one is exact to two answers of /status/json, some 2 ms, and quick enough for the p99 of
200 rounds, but only corral has a /status/json; that one needs a real model and takes seconds a round.
"""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import product

import msgspec
import trio

from tools.clients.asking import Asker
from tools.clients.connection import Line, connect
from tools.clients.framing import FramingError, ResponseReader, request_bytes
from tools.clients.habits import PHASES, Departure, Leave
from tools.clients.http1 import chat
from tools.clients.prompts import PromptSource
from tools.clients.target import Chat, Target
from tools.measures.bed import Bed, dot
from tools.measures.plan import Plan
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, number
from tools.sheets.summary import Summary, gaps, percentile, summarize

STEP_MS = 10.0
GOAL_MS = 20.0
LIMIT_S = 10.0
DELTAS = 4  # a decoding victim has read so many
PROMPT_WORDS = 500  # of a victim that leaves in its prefill: seven steps of the scripted backend
BLOCKER_TOKENS = 30_000


class _Server(msgspec.Struct):
    phase: str


class Occupancy(msgspec.Struct):
    """What is read of /status/json: what the engine does for those who hold a slot, and who waits for one."""

    server: _Server
    queue: list[msgspec.Raw]

    @property
    def phase(self) -> str:
        """ "idle" is: no slot is taken."""
        return self.server.phase


_DECODER = msgspec.json.Decoder(Occupancy)


class Gauge:
    """/status/json, asked again and again on one connection; `answered_s` collects how long that took."""

    def __init__(self, line: Line, target: Target, answered_s: list[float]) -> None:
        self._line = line
        self._request = request_bytes("GET", "/status/json", target.headers)
        self._answered_s = answered_s

    async def read(self) -> Occupancy:
        """Ask once. Raises FramingError where this is not corral's."""
        asked_s = trio.current_time()
        await self._line.send(self._request)
        response = ResponseReader()
        body = b""
        while not response.is_complete:
            data = await self._line.receive()
            if not data:
                response.feed_eof()
            body += response.feed(data)
        self._answered_s.append(trio.current_time() - asked_s)
        try:
            return _DECODER.decode(body)
        except msgspec.MsgspecError as error:
            raise FramingError(f"/status/json: {error}") from error

    async def until(self, holds: Callable[[Occupancy], bool]) -> None:
        """Ask without a pause until it is so. Raises trio.TooSlowError after `LIMIT_S`."""
        with trio.fail_after(LIMIT_S):
            while not holds(await self.read()):
                pass


class FreedRow(msgspec.Struct, frozen=True):
    """One kind of victim; milliseconds."""

    departure: str
    freed_ms: Summary


class Victims:
    """Clients that leave, one after the other, on a server with one slot."""

    def __init__(self, target: Target, step_s: float) -> None:
        self._target = target
        self._step_s = step_s
        self._asker = Asker(target)
        self._chance = random.Random(1)
        self.answered_s: list[float] = []
        """How long each answer of /status/json took."""

    async def measure(self, departure: Departure) -> float:
        """One victim: seconds from its `close()` to the answer that says that what it held is free.

        It leaves at a random moment of a step: its last event came at the end of one. Raises
        trio.TooSlowError when nothing is free after `LIMIT_S`.
        """
        words = PROMPT_WORDS if departure.phase == "prefill" else 0
        async with self._gauge() as gauge, connect(self._target) as line:
            await line.send(self._asker.stream(2000, words=words))
            if departure.phase == "decode":
                await _read_events(line, 1 + DELTAS)  # the first says the role
            else:
                await gauge.until(_is_prefilling if departure.phase == "prefill" else _is_queued)
            await trio.sleep(self._chance.uniform(0.0, self._step_s))
            left_s = trio.current_time()
            line.leave(departure.leave)
            is_free = _queue_is_empty if departure.phase == "queue" else _slot_is_free
            await gauge.until(is_free)
            return trio.current_time() - left_s

    @asynccontextmanager
    async def company(self, phase: str) -> AsyncIterator[None]:
        """Somebody who holds the slot, where victims are to wait for it."""
        if phase != "queue":
            yield
            return
        async with self._gauge() as gauge, connect(self._target) as line, trio.open_nursery() as nursery:
            await line.send(self._asker.stream(BLOCKER_TOKENS))
            nursery.start_soon(_read_to_the_end, line)
            await gauge.until(_is_decoding)
            yield
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def _gauge(self) -> AsyncIterator[Gauge]:
        """On a connection of its own: one has a limited number of requests."""
        async with connect(self._target) as line:
            yield Gauge(line, self._target, self.answered_s)


async def _read_events(line: Line, count: int) -> None:
    while count > 0:
        data = await line.receive()
        if not data:
            raise FramingError("the stream ended before its client could leave it")
        count -= data.count(b"\n\n")


async def _read_to_the_end(line: Line) -> None:
    while await line.receive():
        pass


def _is_queued(occupancy: Occupancy) -> bool:
    return bool(occupancy.queue)


def _is_prefilling(occupancy: Occupancy) -> bool:
    return occupancy.phase == "prefill"


def _is_decoding(occupancy: Occupancy) -> bool:
    return occupancy.phase == "decode"


def _slot_is_free(occupancy: Occupancy) -> bool:
    return occupancy.phase == "idle"


def _queue_is_empty(occupancy: Occupancy) -> bool:
    return not occupancy.queue


async def step_of(target: Target) -> float:
    """How long a step takes: the median gap between the deltas of one stream, in seconds."""
    [prompt] = PromptSource().take(1)
    answer = await chat(target, Chat(prompt, 40, temperature=0.0, stream=True))
    return percentile(gaps(answer.content_s), 0.5)


async def leaving(bed: Bed, plan: Plan) -> Sheet:
    """FIN or RST of a client until the engine's slot, or its place in the queue, is free."""
    rows: list[FreedRow] = []
    broken: list[str] = []
    async with bed.scripted("--slots=1", step_ms=STEP_MS) as server:
        step_s = await step_of(server.target)
        victims = Victims(server.target, step_s)
        for departure in (Departure(*kind) for kind in product(reversed(PHASES), (Leave.FIN, Leave.RST))):
            freed_s: list[float] = []
            async with victims.company(departure.phase):
                for _ in range(plan.rounds):
                    try:
                        freed_s.append(await victims.measure(departure))
                    except trio.TooSlowError:
                        broken.append(f"{departure}: not within {LIMIT_S:g} s")
            rows.append(FreedRow(f"{departure.phase}, {departure.leave.name}", summarize(freed_s, scale=1e3)))
            dot()
    return Sheet(
        name="a client leaves: its slot, or its place in the queue, is free",
        columns=["the client leaves in, by", "rounds", "p50 ms", "p95 ms", "p99 ms", "largest ms"],
        cells=[
            [row.departure, str(row.freed_ms.count), *(number(value, 1) for value in _percentiles(row))]
            for row in rows
        ],
        rows=rows,
        goals=_goals(rows, 1e3 * step_s),
        definitions=f"""\
From the call of the client's close() until an answer of /status/json says that the engine is idle (queue:
  that nobody waits). It is asked on a kept-alive connection without a pause, and an answer takes
  {number(percentile(victims.answered_s, 0.5), 1, 1e3)} ms (median): figures are too large by up to two of
  these, never too small. One slot; a step takes {number(step_s, 1, 1e3)} ms (the median gap between
  deltas), and the client leaves at a random moment of one. The scripted engine finishes a step that was
  aborted; llama.cpp does not.""",
        broken=broken,
    )


def _percentiles(row: FreedRow) -> tuple[float | None, ...]:
    seen = row.freed_ms
    return seen.p50, seen.p95, seen.p99, seen.largest


def _goals(rows: list[FreedRow], step_ms: float) -> list[Goal]:
    """Of each phase, the worse of its two ways to leave."""
    goals = []
    for phase in reversed(PHASES):
        seen = [row.freed_ms for row in rows if row.departure.startswith(phase)]
        median = max((each.p50 for each in seen if each.p50 is not None), default=None)
        p99 = max((each.p99 for each in seen if each.p99 is not None), default=None)
        goals += [
            Goal(f"{phase}: left until free ms, median", GOAL_MS, median, at_most=True),
            Goal(
                f"{phase}: left until free ms, p99 (a step + 20 ms)",
                round(step_ms + GOAL_MS, 1),
                p99,
                at_most=True,
            ),
        ]
    return goals
