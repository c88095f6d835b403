"""The clients of a load test: who comes, how often, how they behave. All of them end with their scope."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import cycle

import trio

from tools.clients.connection import connect, root_cause
from tools.clients.framing import FramingError, ResponseReader, request_bytes
from tools.clients.habits import POLITE, Departure, Habit, Leave
from tools.clients.http1 import chat
from tools.clients.http2 import chat_h2
from tools.clients.prompts import PromptSource
from tools.clients.sse import Answer
from tools.clients.target import Chat, Target
from tools.measures.residual_probe import ResidualProbe

SCENARIOS = ("chat", "abort", "slow", "status", "mixed")


@dataclass(frozen=True, slots=True)
class Load:
    """What was asked for on the command line. `rate` None is a closed loop of `concurrency` clients."""

    target: Target
    scenario: str
    concurrency: int
    rate: float | None
    duration_s: float
    grace_s: float
    prompt_tokens: int
    output_tokens: int
    abort_at: tuple[str, ...]
    leaves: tuple[Leave, ...]
    slow_readers: int
    slow_bytes_s: float
    http: str
    status_path: str
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """One finished client."""

    kind: str
    answer: Answer


@dataclass(slots=True)
class Tally:
    """What was seen so far; the display and the report read it at any time."""

    started_s: float
    started: int = 0
    records: list[Record] = field(default_factory=list)
    cancel_s: dict[str, list[float]] = field(default_factory=dict)
    idle_s: float | None = None
    status_events: int = 0
    status_gap_s: list[float] = field(default_factory=list)
    running: dict[str, int] = field(default_factory=dict)
    unfinished: int = 0

    def enter(self, kind: str) -> None:
        """A client came."""
        self.started += 1
        self.running[kind] = self.running.get(kind, 0) + 1

    def leave(self, kind: str, answer: Answer | None) -> None:
        """A client of that kind is over; without an answer, the test ended it."""
        self.running[kind] -= 1
        if answer is None:
            self.unfinished += 1
        else:
            self.records.append(Record(kind, answer))


class Actors:
    """The clients, one method per kind. Each runs one request from start to end and records it."""

    def __init__(self, load: Load, tally: Tally) -> None:
        self._load = load
        self._tally = tally
        self._prompts = PromptSource()
        self._random = random.Random(load.seed)
        self._speak = chat_h2 if load.http == "2" else chat
        self._ttft_s = 0.5  # a guess of the time to the first token, replaced by what is seen

    def _chat(self, output_tokens: int | None = None) -> Chat:
        words = max(0, self._load.prompt_tokens - 55)
        prompt = self._prompts.take(1, words=words)[0]
        return Chat(prompt, output_tokens or self._load.output_tokens, temperature=0.0, stream=True)

    async def _run(self, kind: str, request: Chat, habit: Habit) -> None:
        self._tally.enter(kind)
        answer: Answer | None = None
        try:
            answer = await self._speak(self._load.target, request, habit)
        finally:
            self._tally.leave(kind, answer)
        if answer.ttft_s is not None:
            self._ttft_s += (answer.ttft_s - self._ttft_s) / 8

    async def polite(self) -> None:
        """Asks and reads to the end."""
        await self._run("chat", self._chat(), POLITE)

    async def deserter(self) -> None:
        """Leaves in one of the phases asked for, as far as a client can tell them apart.

        At once (queue), within the usual time to the first token (prefill), or after some deltas (decode).
        """
        leave = self._random.choice(self._load.leaves)
        phase = self._random.choice(self._load.abort_at)
        if phase == "decode":
            deltas = self._random.randint(1, max(1, self._load.output_tokens // 2))
            habit = Habit(leave=leave, leave_after_deltas=deltas)
        else:
            most_s = 0.02 if phase == "queue" else self._ttft_s
            habit = Habit(leave=leave, leave_after_s=self._random.uniform(0.0, most_s))
        await self._run("abort", self._chat(), habit)

    async def sluggard(self) -> None:
        """Reads `slow_bytes_s`, or stops reading where that is 0, behind a small receive buffer."""
        await self._dawdle("slow", stall_limit_s=120.0)

    async def _dawdle(self, kind: str, *, stall_limit_s: float) -> None:
        slow = self._load.slow_bytes_s
        habit = Habit(
            stalls=slow <= 0,
            read_bytes_s=slow if slow > 0 else None,
            receive_buffer_bytes=4096,
            stall_limit_s=stall_limit_s,
        )
        await self._run(kind, self._chat(max(self._load.output_tokens, 4000)), habit)

    async def watcher(self) -> None:
        """Follows the status stream to its end, or to the end of the test."""
        load, tally = self._load, self._tally
        answer = Answer(sent_s=trio.current_time())
        tally.enter("status")
        try:
            async with connect(load.target) as line:
                await line.send(request_bytes("GET", load.status_path, load.target.headers))
                await self._watch(line.receive, answer)
        except (OSError, trio.BrokenResourceError, FramingError) as error:
            answer.ending, answer.error = "cut", root_cause(error)
        finally:
            answer.ended_s = trio.current_time()
            answer.ending = answer.ending or "left"
            tally.leave("status", answer)

    async def _watch(self, receive: Callable[[], Awaitable[bytes]], answer: Answer) -> None:
        response = ResponseReader()
        last_s = answer.sent_s
        while not response.is_complete:
            data = await receive()
            if not data:
                response.feed_eof()
                break
            body = response.feed(data)
            events, now_s = body.count(b"\n\n"), trio.current_time()
            self._tally.status_events += events
            if events:
                self._tally.status_gap_s.append(now_s - last_s)
                last_s = now_s
            answer.status = response.status
        answer.ending = "done" if answer.status == 200 else "refused"

    async def anybody(self) -> None:
        """One of the above by chance: of ten, six polite, two deserters, a sluggard, a watcher."""
        dice = self._random.random()
        if dice < 0.6:
            await self.polite()
        elif dice < 0.8:
            await self.deserter()
        elif dice < 0.9:
            await self._dawdle("stall", stall_limit_s=self._random.uniform(1.0, 5.0))
        else:
            with trio.move_on_after(self._random.uniform(1.0, 5.0)):
                await self.watcher()

    async def residuals(self) -> None:
        """Round after round of the departures asked for; see residual_probe.py."""
        load, tally = self._load, self._tally
        probe = ResidualProbe(
            load.target, victims=load.concurrency, prompt_tokens=load.prompt_tokens, output_tokens=2000
        )
        await probe.calibrate()
        tally.idle_s = probe.idle_s
        departures = [
            Departure(phase, leave, streams)
            for phase in load.abort_at
            for streams in (True, False)
            for leave in load.leaves
        ]
        for departure in cycle(departures):
            tally.started += load.concurrency
            residual_s = await probe.measure(departure)
            if residual_s is not None:
                tally.cancel_s.setdefault(str(departure), []).append(residual_s)


async def run(load: Load, tally: Tally) -> None:
    """Run the scenario for its duration, then give running clients `grace_s` to end.

    Cancel it to stop at once.
    """
    actors = Actors(load, tally)
    if load.scenario == "abort":
        with trio.move_on_after(load.duration_s):
            await actors.residuals()
        return
    ends_s = trio.current_time() + load.duration_s
    with trio.move_on_at(ends_s + load.grace_s):
        async with trio.open_nursery() as nursery:
            act = actors.anybody if load.scenario == "mixed" else actors.polite
            if load.scenario == "slow":
                nursery.start_soon(_attach, actors.sluggard, load.slow_readers, ends_s)
            if load.scenario == "status":
                nursery.start_soon(_attach, actors.watcher, load.concurrency, ends_s)
            elif load.rate is None:
                for _ in range(load.concurrency):
                    nursery.start_soon(_again, act, ends_s)
            else:
                await _arrivals(act, load.rate, ends_s, nursery)


async def _again(act: Callable[[], Awaitable[None]], ends_s: float) -> None:
    """A closed loop: the next request when the last has ended; 100 ms after a refusal, or it would flood."""
    while trio.current_time() < ends_s:
        began_s = trio.current_time()
        await act()
        if trio.current_time() - began_s < 0.01:
            await trio.sleep(0.1)


async def _attach(act: Callable[[], Awaitable[None]], count: int, ends_s: float) -> None:
    """`count` clients that stay (and come back when they are sent away) until `ends_s`."""
    with trio.move_on_at(ends_s):
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(_again, act, ends_s)


async def _arrivals(
    act: Callable[[], Awaitable[None]], rate: float, ends_s: float, nursery: trio.Nursery
) -> None:
    """An open loop: Poisson arrivals at `rate` per second, however many are still running."""
    chance = random.Random(1)
    due_s = trio.current_time()
    while (due_s := due_s + chance.expovariate(rate)) < ends_s:
        await trio.sleep_until(due_s)
        nursery.start_soon(act)
