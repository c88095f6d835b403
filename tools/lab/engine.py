"""The real planner, scheduler, pace, cache books, drafts and line of waiters, in virtual time.

What a model would compute is left out: a step lets as much time go by as the machine's curve says, and the
texts are noise. Everything that decides is the engine's own code: what a change of it does to hours of load
is seen in seconds.
"""

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from time import thread_time

from corral.engine.local.cache.operations import Copy, Cut, Drop, Forget, Load, Operation, Save
from corral.engine.local.drafts.drafter import Drafter
from corral.engine.local.drafts.lookup import PromptLookup
from corral.engine.local.options import EngineOptions
from corral.engine.local.planner import Planner, open_pace, open_scheduler
from corral.engine.local.scheduler import Step
from corral.serving.admission import Admission, Ticket
from tools.lab.loads import Ask, Source
from tools.lab.machines import BATCH_TOKENS, DRAFT_ROWS, Machine
from tools.lab.stream import Stream

NO_LIMIT = 1 << 30


@dataclass(slots=True)
class Steps:
    """All steps of one kind: how many, with how many tokens in all, and their time."""

    count: int = 0
    tokens: int = 0
    ms: float = 0.0
    own_s: float = 0.0
    """What the planner itself took of them, in true seconds of its thread: other work does not count."""


@dataclass(slots=True)
class Record:
    """What happened: every stream, whether it was answered or not, and all steps."""

    streams: list[Stream] = field(default_factory=list)
    decode: Steps = field(default_factory=Steps)
    prefill: Steps = field(default_factory=Steps)
    longest_queue: int = 0
    copy_ms: float = 0.0
    ended_s: float = 0.0


class LabCache:
    """How much each sequence holds, so that it is seen when the books do not fit what is done."""

    def __init__(self) -> None:
        self._lengths: dict[int, int] = {}
        self._saved: dict[int, int] = {}

    def length(self, sequence: int) -> int:
        return self._lengths.get(sequence, 0)

    def append(self, sequence: int, position: int, tokens: int) -> None:
        assert position == self.length(sequence), "a chunk leaves a gap or overlaps"
        self._lengths[sequence] = position + tokens

    def apply(self, operation: Operation) -> int:
        """Do what was booked; how many tokens were copied to the host's memory or from there."""
        match operation:
            case Forget(sequence):
                self._lengths[sequence] = 0
            case Cut(sequence, length):
                self._lengths[sequence] = min(length, self.length(sequence))
            case Copy(source, target, length):
                assert not self.length(target), "the target of a copy is not empty"
                assert length <= self.length(source), "there is not so much to copy"
                self._lengths[target] = length
            case Save(sequence, state):
                self._saved[state] = self.length(sequence)
                return self._saved[state]
            case Load(state, target, length):
                self._lengths[target] = length
                return self._saved[state]
            case Drop(state):
                del self._saved[state]
        return 0


class Lab:
    """An engine of so many slots on a machine, and its clock, which begins at 0.

    `noise` is by how much of itself a step's time is off, one standard deviation; `repeats` is what of the
    answers prompt lookup could guess. `options` are the engine's own.
    """

    def __init__(
        self,
        machine: Machine,
        options: EngineOptions,
        *,
        repeats: float = 0.0,
        noise: float = 0.03,
        seed: int = 0,
    ) -> None:
        self.now_s = 0.0
        self.record = Record()
        self._machine = machine
        self._truth = machine.costs()
        self._chance = random.Random(f"engine {seed}")
        self._noise = noise
        self._repeats = repeats
        shape = machine.shape(options.slots)
        batch_tokens = max(BATCH_TOKENS, options.slots)
        batch_rows = max(shape.sequences, 2 * options.slots + DRAFT_ROWS)
        self.pace = open_pace(options, batch_tokens=batch_tokens)
        self._scheduler = open_scheduler(
            shape, options, self.pace.costs, batch_tokens=batch_tokens, batch_rows=batch_rows
        )
        self._drafter = Drafter(
            [PromptLookup()] if options.prompt_lookup and not options.deterministic else [],
            self.pace.costs,
            most_rows=batch_rows,
        )
        self._planner = Planner(self._scheduler, self.pace, self._drafter)
        self._cache = LabCache()
        self._admission = Admission(options.slots, NO_LIMIT)
        self._tickets: dict[int, Ticket] = {}
        self._running: dict[int, Stream] = {}
        self._coming: list[tuple[float, int, Ask]] = []
        self._numbers = count()

    def run(self, source: Source, *, until_s: float = float("inf")) -> Record:
        """Serve all requests of a source, or as much as can be done until then."""
        for ask in source.first():
            self._expect(ask)
        while (self._running or self._coming) and self.now_s < until_s:
            if not self._running:
                self.now_s = max(self.now_s, self._coming[0][0])
            self._take_arrivals()
            if self._running:
                self._step(source)
        self.record.ended_s = self.now_s
        return self.record

    def check_idle(self) -> None:
        """Assert that nothing is left behind but reusable prefixes, and that the books are right."""
        assert not self._running, f"streams left: {sorted(self._running)}"
        assert self._admission.is_idle, "somebody waits for a slot, or has one"
        books = self._scheduler.cache
        assert books.in_use == 0, f"{books.in_use} cells are in use"
        for sequence in range(books.shape.sequences):
            length, booked = self._cache.length(sequence), books.length(sequence)
            assert length == booked, f"sequence {sequence} holds {length} tokens, the books say {booked}"

    # Requests

    def _expect(self, ask: Ask) -> None:
        heapq.heappush(self._coming, (ask.at_s, next(self._numbers), ask))

    def _take_arrivals(self) -> None:
        while self._coming and self._coming[0][0] <= self.now_s:
            self._join(heapq.heappop(self._coming)[2])
        self.record.longest_queue = max(self.record.longest_queue, len(self._admission.waiting))

    def _join(self, ask: Ask) -> None:
        key = next(self._numbers)
        stream = Stream(key, ask, random.Random(f"{key} {self._chance.random()}"), self._repeats)
        self.record.streams.append(stream)

        def start() -> None:
            stream.begin(self._scheduler.add(key, stream.prompt()), max(self.now_s, ask.at_s))
            self._running[key] = stream

        ticket = self._tickets[key] = Ticket(
            1, f"client {ask.client}", start=start, moved=lambda _position: None
        )
        self._admission.join(ticket)

    def _release(self, stream: Stream, source: Source) -> None:
        del self._running[stream.key]
        self._drafter.forget(stream.lane)
        self._scheduler.remove(stream.lane)
        self._admission.release(self._tickets.pop(stream.key))
        following = source.after(stream.ask, self.now_s)
        if following is not None:
            self._expect(following)

    # Steps

    def _step(self, source: Source) -> None:
        began_s = thread_time()
        step = self._planner.plan(self._running)
        operations = self._scheduler.cache.take_operations()
        planned_s = thread_time()
        self._apply(operations)
        elapsed_ms = self._time_ms(step)
        rows = sum(chunk.rows for _, chunk in step.chunks)
        self.now_s += 1e-3 * (elapsed_ms + self._machine.step_python_ms + rows * self._machine.row_python_ms)
        self._take_arrivals()  # they were there before anybody's slot was free
        for _, chunk in step.chunks:
            self._cache.append(chunk.sequence, chunk.position, len(chunk.tokens))
        committed_s = thread_time()
        self._planner.computed(step, elapsed_ms)
        own_s = planned_s - began_s + thread_time() - committed_s
        self._advance(step, source)
        kind = self.record.prefill if step.is_prefill else self.record.decode
        kind.count += 1
        kind.tokens += step.tokens
        kind.ms += elapsed_ms
        kind.own_s += own_s

    def _time_ms(self, step: Step) -> float:
        assert step.chunks, "somebody runs, and nothing is planned"
        if step.is_prefill:
            ms = self._truth.prefill_ms(step.tokens, step.depth)
        else:
            ms = self._truth.step_ms(step.tokens, step.depth)
        return ms * max(0.5, self._chance.gauss(1.0, self._noise))

    def _apply(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            if tokens := self._cache.apply(operation):
                ms = self._truth.copy_ms(tokens)
                self.pace.costs.observe_copy(tokens, ms)
                self.record.copy_ms += ms
                self.now_s += 1e-3 * ms

    def _advance(self, step: Step, source: Source) -> None:
        """Say what each lane of a computed step says; the worker's readout does the same with logits."""
        for lane, chunk in step.chunks:
            if lane.computed < len(lane.tokens):
                continue  # there is more of its prompt
            stream = self._running[lane.key]
            draft = chunk.tokens[1:] if chunk.rows > 1 else ()
            accepted = 0
            for drafted in (*draft, None):
                token = stream.next_token()
                if not stream.tokens_left or token != drafted:
                    break
                accepted += 1
            if draft:
                self._planner.verified(lane, len(draft), accepted)
            stream.said_s.append(self.now_s)
            if not stream.tokens_left:
                self._release(stream, source)
        self._apply(self._scheduler.cache.take_operations())
