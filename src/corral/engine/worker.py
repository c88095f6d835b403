"""The engine's thread: one loop that owns the backend and runs every sequence in one batch.

    drain commands -> plan -> decode -> sample, detokenize, find ends -> deliver        (repeat)

Nothing else touches the backend, so nothing here is locked. Commands come in on a SimpleQueue and are
drained between steps; what a step produced goes out in one `deliver` call, all sequences together.
A generation ends in the very step that produced its last token, so nothing is computed to be thrown away.
With nothing to run the thread sleeps in the queue.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from time import perf_counter

from corral.decoding import TextDecoder
from corral.engine.backend import Backend, Sampler
from corral.engine.pace import Pace
from corral.engine.scheduler import Scheduler, Step
from corral.engine.scheduler import Sequence as Scheduled
from corral.errors import CorralError, EngineFailed
from corral.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    Prefill,
    Started,
    Timings,
    TokenLogprob,
    Usage,
)
from corral.request import Sampling

logger = logging.getLogger("corral.engine")


@dataclass(frozen=True, slots=True)
class Task:
    """One sequence to generate: at least one prompt token, at least one token out, all inside the context."""

    key: int
    prompt: Sequence[int]
    sampling: Sampling
    max_tokens: int
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Submit:
    task: Task


@dataclass(frozen=True, slots=True)
class Cancel:
    key: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Forget everything and return."""


Command = Submit | Cancel | Stop


@dataclass(slots=True)
class Delivery:
    """What one round produced: events by task key, and the keys whose slot is free again."""

    events: list[tuple[int, list[Event]]] = field(default_factory=list)
    released: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.events or self.released)


@dataclass(slots=True)
class _Running:
    task: Task
    sequence: Scheduled
    sampler: Sampler
    decoder: TextDecoder
    submitted_s: float
    first_token_s: float = 0.0
    completion_tokens: int = 0


class Worker:
    """Runs tasks on a backend, at most `slots` at a time: the caller waits for a release before the next.

    `deliver` is called on the worker's thread and must neither block nor raise.
    """

    def __init__(
        self, backend: Backend, *, slots: int, pace: Pace, deliver: Callable[[Delivery], None]
    ) -> None:
        self._backend = backend
        self._deliver = deliver
        self._pace = pace
        self._scheduler = Scheduler(slots, backend.ctx_tokens, backend.batch_tokens)
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._running: dict[int, _Running] = {}
        self._by_slot: dict[int, _Running] = {}
        self._pieces = backend.vocabulary.pieces
        self._end_tokens = backend.vocabulary.end_tokens

    def post_nowait(self, command: Command) -> None:
        """Thread-safe; takes effect between two steps."""
        self._commands.put(command)

    def run(self) -> None:
        """Work until Stop. Raises only if the backend is beyond use, or on a bug."""
        try:
            while (delivery := self.turn()) is not None:
                if delivery:
                    self._deliver(delivery)
        finally:
            for running in list(self._running.values()):
                self._release(running)

    def turn(self) -> Delivery | None:
        """Commands, then at most one step; None on Stop. Blocks while there is nothing to do."""
        delivery = Delivery()
        if not self._drain(delivery):
            return None
        if self._running:
            self._step(delivery)
        return delivery

    def check_idle(self) -> None:
        """Assert that nothing is left behind; for tests, after `run` has returned or while it is idle."""
        assert not self._running, f"tasks left: {sorted(self._running)}"
        assert not self._by_slot, f"slots left: {sorted(self._by_slot)}"
        assert self._commands.empty(), "commands left in the queue"
        assert self._scheduler.free_slots == self._scheduler.slots, "a slot is lost"
        for slot in range(self._scheduler.slots):
            cells = self._backend.length(slot)
            assert cells == 0, f"slot {slot} still holds {cells} cells"

    # Commands

    def _drain(self, delivery: Delivery) -> bool:
        """Take all commands, waiting for one if nothing runs; False on Stop."""
        block = not self._running
        while True:
            try:
                command = self._commands.get(block=block)
            except Empty:
                return True
            block = False
            match command:
                case Submit(task):
                    self._begin(task, delivery)
                case Cancel(key):
                    # Not running any more: it has ended by itself, and its release is on its way.
                    if (running := self._running.get(key)) is not None:
                        self._release(running, delivery)
                case Stop():
                    return False

    def _begin(self, task: Task, delivery: Delivery) -> None:
        try:
            sampler = self._backend.sampler(task.sampling, task.prompt)
        except Exception as error:
            delivery.events.append((task.key, [_failed(error)]))
            delivery.released.append(task.key)
            return
        sequence = self._scheduler.add(task.prompt)
        running = _Running(task, sequence, sampler, TextDecoder(task.stop), perf_counter())
        self._running[task.key] = self._by_slot[sequence.slot] = running

    def _release(self, running: _Running, delivery: Delivery | None = None) -> None:
        del self._running[running.task.key]
        del self._by_slot[running.sequence.slot]
        self._scheduler.remove(running.sequence)
        self._backend.remove(running.sequence.slot, 0)
        running.sampler.close()
        if delivery is not None:
            delivery.released.append(running.task.key)

    # One step

    def _step(self, delivery: Delivery) -> None:
        budget = self._pace.prefill_tokens(has_decoding=self._scheduler.has_decoding)
        step = self._scheduler.plan(budget)
        for sequence in step.preempted:
            self._backend.remove(sequence.slot, 0)
        is_prefill = step.is_prefill
        began_s = perf_counter()
        try:
            self._backend.decode([chunk for _, chunk in step.chunks])
        except EngineFailed as error:
            self._isolate(step, error, delivery)
            return
        if is_prefill:
            self._pace.observe(step.tokens, 1e3 * (perf_counter() - began_s))
        self._scheduler.commit(step)
        self._advance_all(step, delivery)

    def _isolate(self, step: Step, error: EngineFailed, delivery: Delivery) -> None:
        """A batch failed: run its chunks one by one, so that only who is at fault fails."""
        for sequence, chunk in step.chunks:
            running = self._by_slot[sequence.slot]
            single = Step(((sequence, chunk),), ())
            try:
                if len(step.chunks) == 1:
                    raise error
                self._backend.decode([chunk])
            except EngineFailed as own_error:
                delivery.events.append((running.task.key, [_failed(own_error)]))
                self._release(running, delivery)
            else:
                self._scheduler.commit(single)
                self._advance_all(single, delivery)

    def _advance_all(self, step: Step, delivery: Delivery) -> None:
        row = 0
        for sequence, chunk in step.chunks:
            running = self._by_slot[sequence.slot]
            if not chunk.wants_logits:
                progress = Prefill(min(sequence.computed, sequence.prompt_tokens), sequence.prompt_tokens)
                delivery.events.append((running.task.key, [progress]))
                continue
            try:
                events, is_over = self._advance(running, row)
            except Exception as error:
                events, is_over = [_failed(error)], True
            row += 1
            if events:
                delivery.events.append((running.task.key, events))
            if is_over:
                self._release(running, delivery)

    def _advance(self, running: _Running, row: int) -> tuple[list[Event], bool]:
        """Sample one token of a sequence; its events, and whether they are its last."""
        task, decoder = running.task, running.decoder
        events: list[Event] = []
        if running.completion_tokens == 0:
            running.first_token_s = perf_counter()
            events.append(Started(running.sequence.prompt_tokens, cached_tokens=0))
        token = running.sampler.sample(row)
        running.completion_tokens += 1
        reason: FinishReason | None = None
        if token in self._end_tokens:
            reason = "stop"
        else:
            logprob: TokenLogprob | None = None
            if task.top_logprobs is not None:
                logprob = self._backend.logprobs(row, token, task.top_logprobs)
            events += decoder.feed(self._pieces[token], logprob)
            if decoder.stopped is not None:
                reason = "stop_sequence"
            elif running.completion_tokens >= task.max_tokens:
                reason = "length"
        if reason is None:
            running.sequence.tokens.append(token)
            return events, False
        events += decoder.finish()
        if decoder.stopped is not None:  # what was held back ended in a stop string after all
            reason = "stop_sequence"
        events.append(self._finished(running, reason))
        return events, True

    def _finished(self, running: _Running, reason: FinishReason) -> Finished:
        return Finished(
            reason=reason,
            stop_sequence=running.decoder.stopped,
            usage=Usage(running.sequence.prompt_tokens, 0, running.completion_tokens),
            timings=Timings(
                prefill_ms=1e3 * (running.first_token_s - running.submitted_s),
                decode_ms=1e3 * (perf_counter() - running.first_token_s),
            ),
        )


def _failed(error: Exception) -> Failed:
    if isinstance(error, CorralError):
        return Failed(error)
    logger.error("a request failed inside the engine", exc_info=error)
    return Failed(EngineFailed("the engine failed on this request"))
