"""The trio side of the local engine: start its thread, hand it tasks, take what it delivers."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import trio

from corral.decoding.formats.learn import shown
from corral.engine.contract import Capacity, Embedding, Holdings, Prepared, Sink, Waste
from corral.engine.local.backend import Backend
from corral.engine.local.chores import Chores
from corral.engine.local.costs import StepTime
from corral.engine.local.crossing import Crossing, open_crossing
from corral.engine.local.drafts.model import DraftModel
from corral.engine.local.embedding.inputs import Inputs
from corral.engine.local.grammars.constraints import Constraint
from corral.engine.local.lane import Tokens
from corral.engine.local.options import EngineOptions
from corral.engine.local.prompts import bounds
from corral.engine.local.prompts.inline import InlinePrompts
from corral.engine.local.prompts.writer import CHATML, PromptWriter
from corral.engine.local.replays import Replays
from corral.engine.local.shaping import Shaping
from corral.engine.local.task import Delivery, EmbedTask, Task
from corral.engine.local.texts import LocalTexts
from corral.engine.local.worker import Worker
from corral.errors import EngineFailed, InvalidRequest, prompt_too_long
from corral.events import Failed
from corral.request import GenerationRequest

logger = logging.getLogger("corral.engine")

THREAD_NAME = "corral-engine"
"""Of whatever thread is in llama.cpp, whose own helpers inherit it."""
READS_ONLY = (
    "this server's model only reads: it makes vectors of texts (POST /v1/embeddings), and writes no answer"
)
THREADS = 2
"""Grammars and samplers that are made ready at the same time."""


@dataclass(frozen=True, slots=True)
class LocalPrepared:
    """A request that fits, with its prompt's tokens, and how its answer is read and held to a form."""

    request: GenerationRequest
    prompt: list[int]
    max_tokens: int
    ending: str
    """How the prompt ends, as text."""
    tokens: Tokens
    """The prompt again, as an array."""
    constraint: Constraint | None = None

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt)


@dataclass(frozen=True, slots=True)
class PreparedInputs:
    """Texts to be embedded that fit, as their tokens, and how long their vectors shall be."""

    request: GenerationRequest
    inputs: Sequence[Sequence[int]]
    dimensions: int
    max_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.inputs))


@dataclass(frozen=True, slots=True)
class LocalHandle:
    """A task of the worker."""

    key: int
    engine: "LocalEngine"

    def cancel(self) -> None:
        """Stop it in this step or before the next; its release follows. Harmless if it has ended."""
        self.engine.cancel(self.key)

    def end_thought(self) -> None:
        """Have it answer now, if it is thinking; harmless if it is not."""
        self.engine.end_thought(self.key)


class LocalEngine:
    """One backend, its thread, and the tasks on it: an Engine (see engine.contract)."""

    def __init__(
        self,
        backend: Backend,
        options: EngineOptions,
        *,
        draft_backend: Backend | None = None,
    ) -> None:
        """Raises StartupError if the draft model does not go with the model."""
        shape = backend.cache.shape
        if options.slots > shape.sequences:
            raise ValueError(f"{options.slots} slots on a backend of {shape.sequences} sequences")
        request_ctx_tokens = min(shape.ctx_tokens, shape.sequence_ctx_tokens)
        model = backend.model
        self._longest_token_bytes = max(map(len, model.vocabulary.pieces))
        self.capacity = Capacity(
            options.slots,
            shape.ctx_tokens,
            request_ctx_tokens,
            prompt_bytes=request_ctx_tokens * self._longest_token_bytes,
        )
        self._options = options
        self._draft_model = None if draft_backend is None else DraftModel(draft_backend, backend)
        self.failure: EngineFailed | None = None
        self.on_capacity: list[Callable[[], None]] = []
        """Never called: its slots are its cache's."""
        self.residence = None
        self.replicas = ()
        self._backend = backend
        self._draft_backend = draft_backend
        self._prompts = model.prompts or InlinePrompts(PromptWriter(model.chat_format, model.vocabulary))
        self.texts = LocalTexts(
            self._prompts,
            model.vocabulary,
            limit_tokens=request_ctx_tokens,
            limit_bytes=request_ctx_tokens * self._longest_token_bytes,
        )
        self._inputs = Inputs(
            backend.embedder.shape if backend.embedder is not None else None,
            self._prompts,
            known_tokens=len(model.vocabulary.pieces),
            longest_token_bytes=self._longest_token_bytes,
            reads_only=not backend.generates,
        )
        self.chat_template = model.chat_format.template or CHATML
        self._shaping: Shaping | None = None
        self._chores = Chores(THREADS)
        self._replays = Replays()
        self._sinks: dict[int, Sink] = {}
        self._keys = count(1)
        self._worker: Worker | None = None

    @property
    def learned(self) -> Mapping[str, Any] | None:
        """How the model writes calls and thoughts, and where that is known from; None before `run`."""
        return None if self._shaping is None else shown(self._shaping.learned)

    @property
    def embedding(self) -> Embedding | None:
        """What vectors the model makes of texts; None if none."""
        return self._inputs.embedding

    def set_draining(self, replica: str, is_draining: bool) -> bool:
        """There is none."""
        return False

    @property
    def holdings(self) -> Holdings | None:
        """What the caches hold; None before `run`."""
        return None if self._worker is None else self._worker.holdings

    def step_age_s(self) -> float | None:
        """How long the running step has lasted, in seconds; None if none is running."""
        return None if self._worker is None else self._worker.step_age_s

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the worker thread until cancelled.

        Raises StartupError if no token can be computed, or no prompt written.

        Cancelling returns once the thread has ended, which takes at most the step it is in: the thread
        is never abandoned, since it holds the model. If the worker dies, every task gets Failed, later
        ones are refused by `submit`, and this goes on waiting to be cancelled.
        """
        timed = await trio.to_thread.run_sync(self._warm_up, thread_name=THREAD_NAME)
        learned = await self._prompts.ready()
        self._shaping = await trio.to_thread.run_sync(Shaping, learned, self._backend.model.vocabulary)
        with open_crossing(self._deliver) as crossing:
            worker = Worker(
                self._backend,
                self._options,
                deliver=crossing.send_nowait,
                draft_model=self._draft_model,
                timed=timed,
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._prompts.run)
                nursery.start_soon(self._chores.run)
                nursery.start_soon(crossing.run)
                nursery.start_soon(self._supervise, worker, crossing)
                self._worker = worker
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self._worker = None
                    worker.stop_nowait()

    async def load(self) -> None:
        """Its backend's model is loaded."""
        await trio.lowlevel.checkpoint()

    def check(self, request: GenerationRequest) -> None:
        """Refuse what the model cannot do, tokens that it does not have, and what is certain not to fit.

        Raises InvalidRequest or ContextExceeded.
        """
        if request.embed is not None:
            self._inputs.check(request.embed)
            return
        if not self._backend.generates:
            raise InvalidRequest(READS_ONLY)
        known = len(self._backend.model.vocabulary.pieces)
        named = [("logit_bias", token) for token, _ in request.sampling.logit_bias]
        named += [("stop_token_ids", token) for token in request.sampling.stop_tokens]
        if request.prompt is not None:
            named += [("prompt", token) for token in request.prompt.tokens or ()]
        for param, token in named:
            if token >= known:
                raise InvalidRequest(f"token {token} is not one of the model's {known}", param=param)
        bounds.check(
            request,
            limit_tokens=self.capacity.request_ctx_tokens,
            longest_token_bytes=self._longest_token_bytes,
        )

    async def prepare(self, request: GenerationRequest, *, client: str) -> "LocalPrepared | PreparedInputs":
        """Render and tokenize a request that was checked off the event loop, and see that it fits.

        Raises InvalidRequest or ContextExceeded. Cancelling leaves at once.
        """
        if request.embed is not None:
            inputs = await self._inputs.tokens(request.embed, client=client)
            return PreparedInputs(request, inputs, self._inputs.dimensions(request.embed))
        request = self._replays.applied(request)
        prompt = await self._prompts.prompt(
            request, client=client, limit_tokens=self.capacity.request_ctx_tokens
        )
        max_tokens = self._output_tokens(request, len(prompt.tokens))
        constraint = None
        if request.sampling.dry is not None or Shaping.compiles(request):
            constraint = await self._chores.do(
                partial(self._made_ready, request, prompt.ending), client=client
            )
        tokens = np.array(prompt.tokens, np.int32)
        return LocalPrepared(request, tokens.tolist(), max_tokens, prompt.ending, tokens, constraint)

    def _made_ready(self, request: GenerationRequest, ending: str) -> Constraint | None:
        """What takes long of a request, before it gets to the engine's thread."""
        assert self._shaping is not None
        self._backend.model.make_ready(request.sampling)
        return self._shaping.constraint(request, ending)

    def cached_tokens(self, prepared: Prepared) -> int:
        """By what was in the cache when a sequence last ended."""
        if self._worker is None or not isinstance(prepared, LocalPrepared):
            return 0
        return self._worker.cached_tokens(prepared.tokens)

    def submit(self, prepared: Prepared, choice: int, sink: Sink, *, max_tokens: int) -> LocalHandle:
        """Start a sequence. The caller holds one of the free slots, and `prepared` is of this engine.

        Raises EngineFailed if the engine is not running.
        """
        if not isinstance(prepared, LocalPrepared | PreparedInputs):
            raise TypeError(f"a request that was prepared elsewhere: {prepared!r}")
        if self._worker is None or self._shaping is None or self.failure is not None:
            raise self.failure or EngineFailed("the engine is not running")
        key = next(self._keys)
        self._sinks[key] = sink
        if isinstance(prepared, PreparedInputs):
            self._worker.submit_nowait(EmbedTask(key, prepared.inputs, prepared.dimensions))
        else:
            self._worker.submit_nowait(self._task(key, prepared, choice, max_tokens))
        return LocalHandle(key, self)

    def _task(self, key: int, prepared: LocalPrepared, choice: int, max_tokens: int) -> Task:
        assert self._shaping is not None
        request = prepared.request
        sampling = request.sampling.of_choice(choice)
        return Task(
            key,
            prepared.prompt,
            sampling,
            max_tokens,
            request.stop,
            request.top_logprobs,
            includes_stop=request.includes_stop,
            shows_control=request.shows_control,
            scores_prompt=request.scores_prompt,
            form=self._shaping.form(request, prepared.ending),
            constraint=prepared.constraint,
            thought=self._shaping.thought(request),
            replays=self._replays if request.tools else None,
        )

    def cancel(self, key: int) -> None:
        """What LocalHandle.cancel does."""
        if self._worker is not None and key in self._sinks:
            self._worker.cancel_nowait(key)

    def end_thought(self, key: int) -> None:
        """What LocalHandle.end_thought does."""
        if self._worker is not None and key in self._sinks:
            self._worker.end_thought_nowait(key)

    def check_idle(self) -> None:
        """Assert that nothing is left of any task; for tests."""
        assert not self._sinks, f"sinks left: {sorted(self._sinks)}"
        if self._worker is not None:
            self._worker.check_idle()

    def _warm_up(self) -> Sequence[StepTime]:
        if self._draft_backend is not None:
            self._draft_backend.warm_up()
        return self._backend.warm_up()

    def _output_tokens(self, request: GenerationRequest, prompt_tokens: int) -> int:
        limit = self.capacity.request_ctx_tokens
        room = limit - prompt_tokens
        wanted = request.max_tokens
        if wanted is not None and request.is_clipped:
            wanted = min(wanted, max(room, 1))
        if room < 1 or (wanted is not None and wanted > room):
            asked = f" and {wanted} of output" if wanted is not None and room >= 1 else ""
            param = request.prompt_param if room < 1 else "max_tokens"
            raise prompt_too_long(prompt_tokens, limit, beside=asked, param=param)
        return wanted or room

    async def _supervise(self, worker: Worker, crossing: Crossing[Delivery]) -> None:
        try:
            try:
                await trio.to_thread.run_sync(
                    worker.run, limiter=trio.CapacityLimiter(1), thread_name=THREAD_NAME
                )
            finally:
                crossing.drain()
        except EngineFailed as error:
            logger.error("the engine cannot be rebuilt: %s", error.message)
            self._fail(EngineFailed(f"the engine failed and cannot be rebuilt: {error.message}"))
        except Exception:
            logger.exception("the engine's thread died")
            self._fail(EngineFailed("the engine failed; the server needs a restart"))

    def _fail(self, error: EngineFailed) -> None:
        self.failure = error
        for key in list(self._sinks):
            self._deliver(Delivery(events=[(key, [Failed(error)])], released=[(key, Waste())]))

    def _deliver(self, delivery: Delivery) -> None:
        if delivery.failure is not None or delivery.has_recovered:
            self.failure = delivery.failure
        for key, events in delivery.events:
            sink = self._sinks.get(key)
            if sink is not None:
                _call(sink.events, events)
        for key, released in delivery.released:
            sink = self._sinks.pop(key, None)
            if sink is not None:
                _call(sink.released, released)


def _call(callback: Callable[..., None], *args: object) -> None:
    # An exception here would end trio.run: a bug in one sink must not end the server.
    try:
        callback(*args)
    except Exception:
        logger.exception("a sink raised")
