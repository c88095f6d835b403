"""The engine's thread: one loop that owns the backend and runs every sequence in one batch.

    drain commands -> plan -> decode -> sample, detokenize, find ends -> deliver        (repeat)

Nothing else touches the backend, so nothing here is locked but the abort of a running step. Commands come
in on a SimpleQueue and are drained between steps; what a step produced goes out in one `deliver` call, all
sequences together, and with it that of the next steps if they are quick. A generation ends in the very step
that produced its last token, so nothing is computed to be thrown away. With nothing to run the thread sleeps
in the queue.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from time import perf_counter

from corral.engine.contract import Waste
from corral.engine.local.backend import Backend, BackendLost, SavedSequence, StepAborted
from corral.engine.local.cache.operations import Copy, Drop, Forget, Load, MemoryOperation, Save
from corral.engine.local.drafts.drafter import Drafter
from corral.engine.local.drafts.model import DraftModel
from corral.engine.local.outbox import Outbox
from corral.engine.local.pace import Pace
from corral.engine.local.scheduler import Scheduler, Step
from corral.engine.local.scheduler import Sequence as Scheduled
from corral.engine.local.task import Cancel, Command, Delivery, Running, Stop, Submit, Task
from corral.errors import CorralError, EngineFailed
from corral.events import Event, Failed, FinishReason, Prefill, Sampled, TokenLogprob

logger = logging.getLogger("corral.engine")

# Cells of the KV cache that prefixes nobody uses may hold beside a few running sequences: a decode step of 16
# sequences takes 44 ms with none and 55 with 1,000 (SmolLM2-135M on 2 cores), since attention passes over
# them all. Where they cannot be saved elsewhere, they are worth more, and may hold a share of the cache.
REMAINDER_TOKENS = 512
REMAINDER_SHARE = 4


class Worker:
    """Runs tasks on a backend, no more at a time than it has sequences: the caller waits for releases.

    `deliver` is called on the worker's thread and must neither block nor raise. Of the prefixes that leave
    the KV cache, `saved_bytes` are kept in the host's memory. Text may wait up to `interval_s` for that of
    the next steps.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        pace: Pace,
        deliver: Callable[[Delivery], None],
        reuses_prefixes: bool = True,
        saved_bytes: int = 0,
        drafts: bool = True,
        draft_model: DraftModel | None = None,
        interval_s: float = 0.0,
    ) -> None:
        self._backend = backend
        self._outbox = Outbox(deliver, interval_s)
        self._pace = pace
        self._reuses_prefixes = reuses_prefixes
        self._saved_tokens = saved_bytes // backend.cache.shape.token_bytes
        self._saved: dict[int, SavedSequence] = {}
        self._drafter = Drafter(looks_up=drafts, model=draft_model)
        self._can_draft = backend.cache.shape.can_cut and (drafts or draft_model is not None)
        self._scheduler = self._new_scheduler()
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._running: dict[int, Running] = {}
        self._by_sequence: dict[Scheduled, Running] = {}
        self._pieces = backend.model.vocabulary.pieces
        self._end_tokens = backend.model.vocabulary.end_tokens
        self._control_pieces = {
            token: name.encode() for name, token in backend.model.vocabulary.control_texts.items()
        }
        self._step_lock = threading.Lock()
        self._step_tokens: dict[int, int] = {}  # of the running step, by key, of those not cancelled
        self._step_size = 0
        self._step_began_s: float | None = None

    @property
    def step_age_s(self) -> float | None:
        """How long the running step has lasted, None if none runs. From any thread."""
        began_s = self._step_began_s
        return None if began_s is None else perf_counter() - began_s

    @property
    def saved_sequences(self) -> int:
        """How many prefixes are kept outside the KV cache."""
        return len(self._saved)

    def submit_nowait(self, task: Task) -> None:
        """Start a task before the next step. From any thread."""
        self._commands.put(Submit(task))

    def cancel_nowait(self, key: int) -> None:
        """Take a task out before the next step, and cut the running one short if that pays. From any thread.

        A step is aborted when those who left own at least half of it: what the others lose by doing it
        again is then no more than what is saved.
        """
        self._commands.put(Cancel(key, perf_counter()))
        with self._step_lock:
            # The lock makes sure that the step which is aborted is the one that was looked at.
            if self._step_tokens.pop(key, 0) and 2 * sum(self._step_tokens.values()) <= self._step_size:
                self._backend.abort()

    def stop_nowait(self) -> None:
        """Make `run` return after the running step. From any thread."""
        self._commands.put(Stop())

    def run(self) -> None:
        """Work until stopped. Raises only if the backend is beyond repair, or on a bug."""
        try:
            while (delivery := self.turn()) is not None:
                self._outbox.put(delivery, self._next_s())
        finally:
            self._outbox.flush()
            for running in list(self._running.values()):
                self._release(running)

    def turn(self) -> Delivery | None:
        """Commands, then at most one step; None on Stop. Blocks while there is nothing to do."""
        delivery = Delivery()
        if not self._drain(delivery):
            return None
        if self._running:
            try:
                self._step(delivery)
            except BackendLost as error:
                self._rebuild(error, delivery)
        self._apply(self._scheduler.pending_memory())
        return delivery

    def check_idle(self) -> None:
        """Assert that nothing is left behind but reusable prefixes; for tests, while no task runs."""
        assert not self._running, f"tasks left: {sorted(self._running)}"
        assert not self._by_sequence, "sequences left"
        assert self._commands.empty(), "commands left in the queue"
        cells = self._scheduler.cells
        assert cells.pinned == 0, f"{cells.pinned} cells are pinned"
        for sequence in range(self._backend.cache.shape.sequences):
            length, booked = self._backend.cache.length(sequence), cells.length(sequence)
            assert length == booked, f"sequence {sequence} holds {length} tokens, the books say {booked}"
        assert set(self._saved) == set(self._scheduler.saved), "the books of saved sequences are wrong"

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
                case Cancel(key, posted_s):
                    # Not running any more: it has ended by itself, and its release is on its way.
                    if (running := self._running.get(key)) is not None:
                        self._release(running, delivery, cancelled_s=posted_s)
                case Stop():
                    return False

    def _begin(self, task: Task, delivery: Delivery) -> None:
        try:
            sampler = self._backend.sampler(task.sampling, task.prompt)
        except Exception as error:
            delivery.events.append((task.key, [_failed(error)]))
            delivery.released.append((task.key, Waste()))
            return
        sequence = self._scheduler.add(task.prompt)
        running = Running(task, sequence, sampler)
        self._running[task.key] = self._by_sequence[sequence] = running

    def _release(
        self, running: Running, delivery: Delivery | None = None, cancelled_s: float | None = None
    ) -> None:
        del self._running[running.task.key]
        del self._by_sequence[running.sequence]
        self._drafter.forget(running.sequence)
        released = running.released(cancelled_s)
        self._scheduler.remove(running.sequence)
        running.sampler.close()
        if delivery is not None:
            delivery.released.append((running.task.key, released))

    # One step

    def _step(self, delivery: Delivery) -> None:
        decoding = self._scheduler.decoding
        prefilling = len(self._running) - decoding
        budget = self._pace.prefill_tokens(decoding=decoding, prefilling=prefilling)
        holds = self._pace.holds_decoding(prefilling=prefilling, tokens=self._scheduler.prefill_left)
        step = self._scheduler.plan(budget, {} if holds else self._propose(), holds_decoding=holds)
        self._apply(step.memory)
        began_s = perf_counter()
        try:
            elapsed_ms = self._decode(step)
        except StepAborted:
            if step.is_prefill:
                self._pace.observe_aborted(1e3 * (perf_counter() - began_s))
            for sequence, chunk in step.chunks:
                self._by_sequence[sequence].aborted_tokens = len(chunk.tokens)
            return  # who left is released by the command that came before the abort; the rest is done again
        except BackendLost:
            raise
        except EngineFailed as error:
            self._isolate(step, error, delivery)
            return
        if step.is_prefill:
            self._pace.observe_prefill(step.tokens, elapsed_ms)
        else:
            self._pace.observe_decode(elapsed_ms)
        self._scheduler.commit(step)
        self._advance_all(step, delivery)

    def _propose(self) -> dict[Scheduled, list[int]]:
        """Drafts, if the next step may carry any.

        None beside a prefill: a wider step makes every stream wait longer for its next token, and the prompt
        for its next turn.
        """
        is_loaded = any(sequence.has_begun and not sequence.is_decoding for sequence in self._by_sequence)
        if is_loaded or not self._can_draft or not self._scheduler.decodes_next:
            return {}
        return self._drafter.propose(
            [running for sequence, running in self._by_sequence.items() if sequence.is_decoding]
        )

    def _decode(self, step: Step) -> float:
        """Compute a step, abortable; its time in ms."""
        began_s = perf_counter()
        with self._step_lock:
            self._step_tokens = {
                self._by_sequence[sequence].task.key: len(chunk.tokens) for sequence, chunk in step.chunks
            }
            self._step_size = step.tokens
        self._step_began_s = began_s
        try:
            self._backend.decode([chunk for _, chunk in step.chunks])
        finally:
            self._step_began_s = None
            with self._step_lock:
                self._step_tokens = {}
                self._backend.rearm()
        return 1e3 * (perf_counter() - began_s)

    def _isolate(self, step: Step, error: EngineFailed, delivery: Delivery) -> None:
        """A batch failed: run its chunks one by one, so that only who is at fault fails."""
        for sequence, chunk in step.chunks:
            running = self._by_sequence[sequence]
            single = Step((), ((sequence, chunk),), step.is_prefill)
            try:
                if len(step.chunks) == 1:
                    raise error
                self._backend.decode([chunk])
            except BackendLost:
                raise
            except EngineFailed as own_error:
                delivery.events.append((running.task.key, [_failed(own_error)]))
                self._release(running, delivery)
            else:
                self._scheduler.commit(single)
                self._advance_all(single, delivery)

    def _apply(self, operations: Sequence[MemoryOperation]) -> None:
        for operation in operations:
            match operation:
                case Forget(sequence):
                    self._backend.cache.remove(sequence, 0)
                case Copy(source, target, length):
                    self._backend.cache.copy(source, target, length)
                case Save(sequence, state):
                    self._saved[state] = self._backend.cache.save(sequence)
                case Load(state, target, length):
                    self._backend.cache.load(self._saved[state], target)
                    self._backend.cache.remove(target, length)
                case Drop(state):
                    del self._saved[state]

    def _rebuild(self, error: BackendLost, delivery: Delivery) -> None:
        """Fail everything, tell so at once, and begin again with an empty cache."""
        logger.error("llama.cpp failed and is being rebuilt: %s", error.message)
        for running in list(self._running.values()):
            delivery.events.append((running.task.key, [_failed(error)]))
            self._release(running, delivery)
        self._outbox.put(Delivery(delivery.events, delivery.released, failure=error), None)
        delivery.events, delivery.released = [], []
        self._scheduler = self._new_scheduler()
        self._saved.clear()
        self._backend.reset()
        delivery.has_recovered = True
        logger.warning("llama.cpp was rebuilt")

    def _new_scheduler(self) -> Scheduler:
        shape = self._backend.cache.shape
        share = min(shape.ctx_tokens, shape.sequence_ctx_tokens) // REMAINDER_SHARE
        return Scheduler(
            sequences=shape.sequences,
            ctx_tokens=shape.ctx_tokens,
            batch_tokens=self._backend.batch_tokens,
            can_cut=shape.can_cut,
            reuses_prefixes=self._reuses_prefixes,
            shares_cells=shape.shares_cells,
            remainder_tokens=min(share, REMAINDER_TOKENS) if self._saved_tokens else share,
            saved_tokens=self._saved_tokens,
        )

    def _next_s(self) -> float | None:
        """How long until the next turn's text, if nothing comes between."""
        if not self._running or not self._commands.empty():
            return None
        is_decoding = all(sequence.is_decoding for sequence in self._by_sequence)
        return 1e-3 * self._pace.decode_ms if is_decoding else None

    # What a step's logits say

    def _advance_all(self, step: Step, delivery: Delivery) -> None:
        row = 0
        for sequence, chunk in step.chunks:
            running = self._by_sequence[sequence]
            if chunk.rows == 0:
                progress = Prefill(min(sequence.computed, sequence.prompt_tokens), sequence.prompt_tokens)
                delivery.events.append((running.task.key, [progress]))
                continue
            try:
                events, is_over = self._advance(running, row, chunk.tokens[1:] if chunk.rows > 1 else ())
            except Exception as error:
                events, is_over = [_failed(error)], True
            row += chunk.rows
            if events:
                delivery.events.append((running.task.key, events))
            if is_over:
                self._release(running, delivery)

    def _advance(self, running: Running, row: int, draft: Sequence[int]) -> tuple[list[Event], bool]:
        """Sample a token of a sequence, and more while the draft is right; whether they are its last."""
        sequence = running.sequence
        base = sequence.computed - len(draft)  # in the cache without the draft
        told: list[Event] = [] if running.completion_tokens else [running.started()]
        said: list[Event] = []
        before = running.completion_tokens
        reason: FinishReason | None = None
        accepted = 0
        for drafted in (*draft, None):
            token = running.sampler.sample(row + accepted)
            reason = self._take(running, token, row + accepted, said)
            if reason is not None or token != drafted:
                break
            accepted += 1
        if draft:
            self._drafter.observe(running, len(draft), accepted)
            if accepted < len(draft):
                self._scheduler.cut(sequence, base + accepted)
                assert sequence.id is not None
                self._backend.cache.remove(sequence.id, base + accepted)
        pieces = tuple(self._pieces[token] for token in draft)
        told.append(Sampled(running.completion_tokens - before, pieces, accepted))
        events = told + said
        if reason is None:
            return events, False
        events += running.decoder.finish()
        if running.decoder.stopped is not None:  # what was held back ended in a stop string after all
            reason = "stop_sequence"
        events.append(running.finished(reason))
        return events, True

    def _take(self, running: Running, token: int, row: int, events: list[Event]) -> FinishReason | None:
        """Count one sampled token and say its text; why it is the last, if it is."""
        task, decoder = running.task, running.decoder
        running.completion_tokens += 1
        running.last_token_s = perf_counter()
        if task.is_last(token):
            running.stop_token = token
            return "stop"
        if token in self._end_tokens:
            return "stop"
        logprob: TokenLogprob | None = None
        if task.top_logprobs is not None:
            logprob = self._backend.logprobs(row, token, task.top_logprobs)
        piece = self._pieces[token]
        if task.shows_control:
            piece = self._control_pieces.get(token, piece)
        events += decoder.feed(piece, logprob)
        if decoder.stopped is not None:
            return "stop_sequence"
        if running.completion_tokens >= task.max_tokens:
            return "length"
        running.sequence.tokens.append(token)
        return None


def _failed(error: Exception) -> Failed:
    if isinstance(error, CorralError):
        return Failed(error)
    logger.error("a request failed inside the engine", exc_info=error)
    return Failed(EngineFailed("the engine failed on this request"))
