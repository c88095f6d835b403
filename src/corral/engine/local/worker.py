"""The engine's thread: one loop that owns the backend and runs every task in one batch.

    drain commands -> plan -> decode -> sample, detokenize, find ends -> deliver        (repeat)

Nothing else touches the backend, so nothing here is locked but the abort of a running step. Commands come in
on a SimpleQueue and are drained between steps. What a step produced goes out in one `deliver` call, all tasks
together; outputs of quick steps are delivered together. With nothing to run the thread sleeps in the queue.
Texts to embed have steps of their own, after those that decode.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from queue import Empty, SimpleQueue
from time import perf_counter

from corral.engine.contract import Holdings, Waste
from corral.engine.local.backend import Backend, BackendLost, Chunk, SavedSequence, StepAborted
from corral.engine.local.cache.operations import Copy, Cut, Drop, Forget, Load, Operation, Save
from corral.engine.local.cache.prefixes import common_prefix, may_share_more
from corral.engine.local.costs import StepTime
from corral.engine.local.current import CurrentStep
from corral.engine.local.drafts.drafter import Drafter
from corral.engine.local.drafts.forced import ForcedRuns
from corral.engine.local.drafts.lookup import PromptLookup
from corral.engine.local.drafts.model import DraftModel
from corral.engine.local.drafts.proposer import Proposer
from corral.engine.local.embedding.steps import EmbedSteps
from corral.engine.local.lane import Tokens
from corral.engine.local.options import EngineOptions
from corral.engine.local.outbox import Outbox
from corral.engine.local.pace import IDLE_STEP_MS, Pace
from corral.engine.local.planner import Planner, open_pace, open_scheduler
from corral.engine.local.readout import Readout
from corral.engine.local.running import Running
from corral.engine.local.scheduler import Step
from corral.engine.local.task import Cancel, Command, Delivery, EmbedTask, EndThought, Stop, Submit, Task
from corral.errors import CorralError, EngineFailed
from corral.events import BlockDelta, Failed, Prefill, TokenLogprob

logger = logging.getLogger("corral.engine")


class Worker:
    """Runs tasks on a backend, at most `options.slots` at a time: the caller waits for releases.

    `deliver` is called on the worker's thread and must neither block nor raise. What `draft_model` guesses is
    verified; it is closed when `run` returns, but not its backend. `pace` is for who has one already, and of
    `timed` steps it is known what they took.
    """

    def __init__(
        self,
        backend: Backend,
        options: EngineOptions,
        *,
        deliver: Callable[[Delivery], None],
        draft_model: DraftModel | None = None,
        pace: Pace | None = None,
        timed: Iterable[StepTime] = (),
    ) -> None:
        self._backend = backend
        self._options = options
        self._outbox = Outbox(deliver, options.stream_interval_ms / 1e3)
        self._pace = pace or open_pace(options, batch_tokens=backend.batch_tokens)
        self._costs = self._pace.costs
        self._costs.observe_times(timed)
        self._draft_model = draft_model
        self._drafter = Drafter(self._proposers(), self._costs, most_rows=backend.batch_rows)
        self._open_books()
        self._saved: dict[int, SavedSequence] = {}
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._running: dict[int, Running] = {}
        embedder = backend.embedder
        self._current = CurrentStep(backend.abort, backend.rearm)
        self._embeds = None if embedder is None else EmbedSteps(embedder, self._current)
        self._owed_ms = 0.0  # to those who generate, before the next step of texts to embed
        self._beginnings: tuple[Tokens, ...] = ()  # replaced as a whole, since other threads read it

    @property
    def step_age_s(self) -> float | None:
        """How long the running step has lasted, None if none runs. From any thread."""
        return self._current.age_s

    @property
    def holdings(self) -> Holdings:
        """What the caches hold. From any thread: each figure was right at some moment of the running step."""
        cache, token_bytes = self._cache, self._backend.cache.shape.token_bytes
        running = cache.in_use
        kept = max(0, cache.used - running)
        return Holdings(
            running_tokens=running,
            kept_tokens=kept,
            kept_bytes=kept * token_bytes,
            saved_bytes=cache.saved.total * token_bytes,
            saved_limit_bytes=cache.saved.most_tokens * token_bytes,
        )

    def cached_tokens(self, prompt: Tokens) -> int:
        """How much of a prompt was there to begin with when a task last ended. From any thread."""
        found = 0
        for tokens in self._beginnings:
            if may_share_more(tokens, prompt, found):
                found = max(found, common_prefix(tokens, prompt))
        return found

    def submit_nowait(self, task: Task | EmbedTask) -> None:
        """Start a task before the next step. From any thread."""
        self._commands.put(Submit(task))

    def cancel_nowait(self, key: int) -> None:
        """Take a task out before the next step; cut the current one short if that pays. From any thread."""
        self._commands.put(Cancel(key, perf_counter()))
        self._current.leave(key)

    def end_thought_nowait(self, key: int) -> None:
        """Have a task answer now, if it is thinking. From any thread."""
        self._commands.put(EndThought(key))

    def stop_nowait(self) -> None:
        """Make `run` return after the running step. From any thread."""
        self._commands.put(Stop())

    def run(self) -> None:
        """Work until stopped. Raises only if the backend is beyond repair, or on a bug."""
        try:
            while (delivery := self.run_once()) is not None:
                self._outbox.put(delivery)
        finally:
            self._outbox.flush()
            self._release_all()
            if self._draft_model is not None:
                self._draft_model.close()
            logger.debug("what was learned of costs:\n%s", self._costs.table())

    def run_once(self) -> Delivery | None:
        """Commands, then at most one step; None on Stop. Blocks while there is nothing to do."""
        delivery = Delivery()
        if not self._drain(delivery):
            return None
        try:
            if self._embeds and (self._owed_ms <= 0 or not self._running):
                self._embed(self._embeds, delivery)
            elif self._running:
                self._step(delivery)
            self._apply(self._cache.take_operations())
        except BackendLost as error:
            self._rebuild(error, delivery)
        return delivery

    def check_idle(self) -> None:
        """Assert that nothing is left behind but reusable prefixes; for tests, while no task runs."""
        assert not self._running, f"tasks left: {sorted(self._running)}"
        assert not self._embeds, "inputs to be embedded are left"
        # A cancel may still lie in the queue, of a task that has ended; a task there would have a sink.
        assert self._cache.in_use == 0, f"{self._cache.in_use} cells are in use"
        for sequence in range(self._backend.cache.shape.sequences):
            length, booked = self._backend.cache.length(sequence), self._cache.length(sequence)
            assert length == booked, f"sequence {sequence} holds {length} tokens, the books say {booked}"
        assert set(self._saved) == set(self._cache.saved), "the books of saved sequences are wrong"

    # Commands

    def _drain(self, delivery: Delivery) -> bool:
        """Take all commands, waiting for one if nothing runs; False on Stop."""
        block = not self._running and not self._embeds
        if block:
            self._outbox.flush()  # whoever ended has taken its own along: nothing may wait for a next step
        while True:
            try:
                command = self._commands.get(block=block)
            except Empty:
                return True
            block = False
            match command:
                case Submit(EmbedTask() as task):
                    assert self._embeds is not None, "there is nothing to embed with"
                    self._embeds.begin(task)
                case Submit(Task() as task):
                    self._begin(task, delivery)
                case Cancel(key) if self._embeds is not None and key in self._embeds:
                    self._embeds.release(key, delivery, is_cancelled=True)
                case Cancel(key, posted_s):
                    # Not running any more: it has ended by itself, and its release is on its way.
                    if (running := self._running.get(key)) is not None:
                        self._release(running, delivery, cancelled_s=posted_s)
                case EndThought(key):
                    if (running := self._running.get(key)) is not None:
                        running.end_thought()
                case Stop():
                    return False

    def _begin(self, task: Task, delivery: Delivery) -> None:
        try:
            sampler = self._backend.sampler(task.sampling, task.prompt)
        except Exception as error:
            delivery.events.append((task.key, [_failed(error)]))
            delivery.released.append((task.key, Waste()))
            return
        lane = self._scheduler.add(task.key, task.prompt, is_scored=task.scores_prompt)
        self._running[task.key] = Running(task, lane, sampler)

    def _release(
        self, running: Running, delivery: Delivery | None = None, cancelled_s: float | None = None
    ) -> None:
        key, lane = running.task.key, running.lane
        del self._running[key]
        released = running.released(cancelled_s)
        self._drafter.forget(lane)
        self._scheduler.remove(lane)
        self._beginnings = (
            *self._cache.beginnings(),
            *(other.lane.prompt for other in self._running.values()),
        )
        running.sampler.close()
        if delivery is not None:
            delivery.released.append((key, released))

    def _release_all(self, error: CorralError | None = None, delivery: Delivery | None = None) -> None:
        """Take all tasks out, and tell them why, if somebody is to be told."""
        keys = [*self._running, *(self._embeds.keys if self._embeds is not None else ())]
        for key in keys:
            if delivery is not None and error is not None:
                delivery.events.append((key, [Failed(error)]))
            if (running := self._running.get(key)) is not None:
                self._release(running, delivery)
            elif self._embeds is not None:
                self._embeds.release(key, delivery)

    # One step

    def _embed(self, embeds: EmbedSteps, delivery: Delivery) -> None:
        """A step of texts to embed, as long as one of a prompt where others decode; then it is their turn."""
        load = self._scheduler.load()
        self._outbox.flush()
        began_s = perf_counter()
        embeds.step(self._pace.budget_ms(load) if load.decoding else IDLE_STEP_MS, delivery)
        self._owed_ms = 1e3 * (perf_counter() - began_s)

    def _step(self, delivery: Delivery) -> None:
        step = self._planner.plan(self._running)
        operations = self._cache.take_operations()
        if any(isinstance(operation, (Copy, Load, Save)) for operation in operations):
            self._outbox.flush()  # they may take as long as a step
            self._apply(operations)
        else:
            self._apply(operations)
            self._outbox.before_step(1e-3 * self._planner.expected_ms(step))
        began_s = perf_counter()
        try:
            elapsed_ms = self._decode(step)
        except StepAborted:
            self._planner.aborted(step, 1e3 * (perf_counter() - began_s))
            for lane, chunk in step.chunks:
                self._running[lane.key].aborted_tokens = len(chunk.tokens)
            return  # who left is released by the command that came before the abort; the rest is done again
        except BackendLost:
            raise
        except EngineFailed as error:
            self._isolate(step, error, delivery)
            return
        self._planner.computed(step, elapsed_ms)
        if not step.is_prefill:
            self._owed_ms -= elapsed_ms
        elif not self._planner.load.decoding:
            self._owed_ms = 0.0  # prompts and texts take turns
        self._advance(step, delivery)

    def _decode(self, step: Step) -> float:
        """Compute a step, abortable; its time in ms."""
        began_s = perf_counter()
        with self._current.computing(step.shares):
            self._backend.decode([chunk for _, chunk in step.chunks])
        return 1e3 * (perf_counter() - began_s)

    def _advance(self, step: Step, delivery: Delivery) -> None:
        """Tell what a computed step says of each of its lanes."""
        row = 0
        for lane, chunk in step.chunks:
            running = self._running[lane.key]
            own_row, row = row, row + chunk.rows
            is_scored = lane.wants_scores
            if is_scored:
                self._score(running, chunk, own_row)
            if lane.computed < len(lane.tokens):
                progress = Prefill(
                    min(lane.computed, lane.prompt_tokens),
                    lane.prompt_tokens,
                    lane.cached_tokens,
                    1e3 * (perf_counter() - running.submitted_s),
                )
                delivery.events.append((lane.key, [progress]))
                continue
            try:
                draft = chunk.tokens[1:] if chunk.rows > 1 and not is_scored else ()
                if is_scored:
                    own_row += chunk.rows - 1
                events, is_over = self._readout.advance(running, own_row, draft)
            except BackendLost:
                raise
            except Exception as error:
                events, is_over = [_failed(error)], True
            if events:
                delivery.events.append((lane.key, events))
            has_said = any(isinstance(event, BlockDelta) for event in events)
            lane.unsaid = 0 if has_said else lane.unsaid + 1
            if is_over:
                self._release(running, delivery)

    def _score(self, running: Running, chunk: Chunk, row: int) -> None:
        """Note what the rows of a chunk of the prompt say of the tokens behind each of its own."""
        prompt, scores = running.task.prompt, running.prompt_logprobs
        if chunk.position == 0:  # also where it had to begin again
            first = self._backend.model.vocabulary.pieces[prompt[0]]
            scores[:] = [TokenLogprob(first, 0.0)]
        following = prompt[chunk.position + 1 : chunk.position + len(chunk.tokens) + 1]
        for offset, token in enumerate(following):
            scores.append(self._backend.logprobs(row + offset, token, running.task.top_logprobs or 0))

    def _isolate(self, step: Step, error: EngineFailed, delivery: Delivery) -> None:
        """A batch failed: run its chunks one by one, so that only who is at fault fails."""
        for lane, chunk in step.chunks:
            single = Step(((lane, chunk),), step.is_prefill, len(chunk.tokens))
            try:
                if len(step.chunks) == 1:
                    raise error
                self._backend.decode([chunk])
            except BackendLost:
                raise
            except EngineFailed as own_error:
                delivery.events.append((lane.key, [_failed(own_error)]))
                self._release(self._running[lane.key], delivery)
            else:
                self._scheduler.commit(single)
                self._advance(single, delivery)

    def _apply(self, operations: Sequence[Operation]) -> None:
        """Do to the cache what was booked. Raises BackendLost."""
        cache = self._backend.cache
        for operation in operations:
            match operation:
                case Forget(sequence):
                    cache.remove(sequence, 0)
                case Cut(sequence, length):
                    cache.remove(sequence, length)
                case Copy(source, target, length):
                    cache.copy(source, target, length)
                case Save(sequence, state):
                    began_s = perf_counter()
                    self._saved[state] = cache.save(sequence)
                    self._costs.observe_copy(cache.length(sequence), 1e3 * (perf_counter() - began_s))
                case Load(state, target, length):
                    began_s = perf_counter()
                    cache.load(self._saved[state], target)
                    self._costs.observe_copy(cache.length(target), 1e3 * (perf_counter() - began_s))
                    cache.remove(target, length)
                case Drop(state):
                    del self._saved[state]

    def _rebuild(self, error: BackendLost, delivery: Delivery) -> None:
        """Fail everything, tell so at once, and begin again with an empty cache."""
        logger.error("llama.cpp failed and is being rebuilt: %s", error.message)
        self._release_all(error, delivery)
        self._outbox.put(Delivery(delivery.events, delivery.released, failure=error))
        delivery.events, delivery.released = [], []
        self._saved.clear()
        self._backend.reset()
        if self._embeds is not None and self._backend.embedder is not None:
            self._embeds.replace(self._backend.embedder)
        self._open_books()
        delivery.has_recovered = True
        logger.warning("llama.cpp was rebuilt")

    def _open_books(self) -> None:
        """Begin with an empty cache."""
        backend = self._backend
        self._scheduler = open_scheduler(
            backend.cache.shape,
            self._options,
            self._costs,
            batch_tokens=backend.batch_tokens,
            batch_rows=backend.batch_rows,
        )
        self._cache = self._scheduler.cache
        self._planner = Planner(self._scheduler, self._pace, self._drafter)
        self._readout = Readout(backend, self._planner)

    def _proposers(self) -> list[Proposer]:
        """Who guesses: what must come, else what was said before, which costs nothing, else a draft model.

        Nobody where answers have to be deterministic: how wide a draft is depends on measured times.
        """
        if self._options.deterministic:
            return []
        proposers: list[Proposer] = [ForcedRuns(lambda lane: self._running[lane.key].certain())]
        if self._options.prompt_lookup:
            proposers.append(PromptLookup())
        return proposers if self._draft_model is None else [*proposers, self._draft_model]


def _failed(error: Exception) -> Failed:
    if isinstance(error, CorralError):
        return Failed(error)
    logger.error("a request failed inside the engine", exc_info=error)
    return Failed(EngineFailed("the engine failed on this request"))
