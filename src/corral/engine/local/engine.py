"""The trio side of the engine: start its thread, hand it tasks, take what it delivers."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count

import trio

from corral.engine.local.backend import Backend
from corral.engine.local.drafts.model import DraftModel
from corral.engine.local.pace import Pace
from corral.engine.local.prompt import Prompter
from corral.engine.local.task import Delivery, Released, Task
from corral.engine.local.worker import Worker
from corral.errors import EngineFailed
from corral.events import Event, Failed
from corral.request import GenerationRequest, Sampling

logger = logging.getLogger("corral.engine")

PROMPT_THREADS = 2


@dataclass(frozen=True, slots=True)
class Subscriber:
    """Who gets a task's events: both are called on the trio thread and must neither block nor raise.

    `released` comes once, after the last events: the slot is free.
    """

    events: Callable[[list[Event]], None]
    released: Callable[[Released], None]


class Engine:
    """One backend, its thread, and the tasks on it. All methods but `run` and `prompt` are synchronous."""

    def __init__(
        self,
        backend: Backend,
        *,
        slots: int,
        step_budget_ms: float,
        reuses_prefixes: bool = True,
        saved_bytes: int = 0,
        drafts: bool = True,
        draft_backend: Backend | None = None,
        stream_interval_s: float = 0.0,
    ) -> None:
        """Raises StartupError if the draft model does not go with the model."""
        if slots > backend.sequences:
            raise ValueError(f"{slots} slots on a backend of {backend.sequences} sequences")
        self.slots = slots
        self._reuses_prefixes = reuses_prefixes
        self._saved_bytes = saved_bytes
        self._drafts = drafts
        self._stream_interval_s = stream_interval_s
        self._draft_model = None if draft_backend is None else DraftModel(draft_backend, backend)
        self.failure: EngineFailed | None = None
        self._backend = backend
        self._pace = Pace(step_budget_ms, backend.batch_tokens)
        self._prompter = Prompter(backend.chat_format, backend.vocabulary)
        self._prompt_threads = trio.CapacityLimiter(PROMPT_THREADS)
        self._subscribers: dict[int, Subscriber] = {}
        self._keys = count(1)
        self._worker: Worker | None = None

    @property
    def request_ctx_tokens(self) -> int:
        """Tokens one request may hold, prompt and output together."""
        return min(self._backend.ctx_tokens, self._backend.sequence_ctx_tokens)

    @property
    def ctx_tokens(self) -> int:
        """Tokens the KV cache holds, all slots together."""
        return self._backend.ctx_tokens

    @property
    def vocabulary_tokens(self) -> int:
        return len(self._backend.vocabulary.pieces)

    def step_age_s(self) -> float | None:
        """How long the running step has lasted, in seconds; None if none is running."""
        return None if self._worker is None else self._worker.step_age_s

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the worker thread until cancelled.

        Cancelling returns once the thread has ended, which takes at most the step it is in: the thread
        is never abandoned, since it holds the model. If the worker dies, every task gets Failed, later
        ones are refused by `submit`, and this goes on waiting to be cancelled.
        """
        to_trio = trio.lowlevel.current_trio_token()

        def deliver(delivery: Delivery) -> None:
            to_trio.run_sync_soon(self._deliver, delivery)

        worker = Worker(
            self._backend,
            pace=self._pace,
            deliver=deliver,
            reuses_prefixes=self._reuses_prefixes,
            saved_bytes=self._saved_bytes,
            drafts=self._drafts,
            draft_model=self._draft_model,
            interval_s=self._stream_interval_s,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._supervise, worker)
            self._worker = worker
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._worker = None
                worker.stop_nowait()

    async def prompt(self, request: GenerationRequest) -> list[int]:
        """The prompt's tokens, rendered and tokenized off the event loop.

        Raises InvalidRequest. Cancelling leaves at once; the thread finishes its pure work unheard.
        """
        return await trio.to_thread.run_sync(
            partial(self._prompter.tokens, request.messages, request.tools),
            abandon_on_cancel=True,
            limiter=self._prompt_threads,
        )

    def submit(
        self,
        prompt: list[int],
        sampling: Sampling,
        subscriber: Subscriber,
        *,
        max_tokens: int,
        stop: tuple[str, ...] = (),
        top_logprobs: int | None = None,
    ) -> int:
        """Start a sequence; returns its key. The caller holds one of the `slots` free slots.

        Raises EngineFailed if the engine is not running.
        """
        if self._worker is None or self.failure is not None:
            raise self.failure or EngineFailed("the engine is not running")
        key = next(self._keys)
        self._subscribers[key] = subscriber
        task = Task(key, prompt, sampling, max_tokens, stop, top_logprobs)
        self._worker.submit_nowait(task)
        return key

    def cancel(self, key: int) -> None:
        """Stop a sequence in this step or before the next; `released` follows. Harmless if it has ended."""
        if self._worker is not None and key in self._subscribers:
            self._worker.cancel_nowait(key)

    def check_idle(self) -> None:
        """Assert that nothing is left of any task; for tests."""
        assert not self._subscribers, f"subscribers left: {sorted(self._subscribers)}"
        if self._worker is not None:
            self._worker.check_idle()

    async def _supervise(self, worker: Worker) -> None:
        try:
            await trio.to_thread.run_sync(
                worker.run, limiter=trio.CapacityLimiter(1), thread_name="corral-engine"
            )
        except EngineFailed as error:
            logger.error("the engine cannot be rebuilt: %s", error.message)
            self._fail(EngineFailed(f"the engine failed and cannot be rebuilt: {error.message}"))
        except Exception:
            logger.exception("the engine's thread died")
            self._fail(EngineFailed("the engine failed; the server needs a restart"))

    def _fail(self, error: EngineFailed) -> None:
        self.failure = error
        for key in list(self._subscribers):
            self._deliver(Delivery(events=[(key, [Failed(error)])], released=[(key, Released())]))

    def _deliver(self, delivery: Delivery) -> None:
        if delivery.failure is not None or delivery.has_recovered:
            self.failure = delivery.failure
        for key, events in delivery.events:
            subscriber = self._subscribers.get(key)
            if subscriber is not None:
                _call(subscriber.events, events)
        for key, released in delivery.released:
            subscriber = self._subscribers.pop(key, None)
            if subscriber is not None:
                _call(subscriber.released, released)


def _call(callback: Callable[..., None], *args: object) -> None:
    # An exception here would end trio.run: a bug in one subscriber must not end the server.
    try:
        callback(*args)
    except Exception:
        logger.exception("a subscriber's callback raised")
