"""An engine without a model: it tells each request a tale, one batch of events after the other.

It keeps the contract with one trio task per sequence, as an engine that speaks HTTP would: cancelling is
cancelling a scope, and the release is what leaving that scope does. There is no token in it anywhere.
"""

import logging
from array import array
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from corral.engine.contract import Capacity, Embedding, Prepared, Sink, Waste
from corral.errors import ContextExceeded, EngineFailed
from corral.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Embedded,
    Event,
    Failed,
    Finished,
    Prefill,
    Sampled,
    Started,
    Usage,
)
from corral.request import GenerationRequest, Message

logger = logging.getLogger("tests.tales")

Tale = Callable[[GenerationRequest, int], Iterable[list[Event] | trio.Event | float]]
"""Batches of events; at a trio.Event it is silent until somebody sets it, at a number for so many seconds."""


def asking(text: str, **fields: object) -> GenerationRequest:
    return GenerationRequest((Message("user", text),), **fields)  # type: ignore[arg-type]


def words(request: GenerationRequest, max_tokens: int) -> Iterable[list[Event]]:
    """Counts, a word at a time, as far as it may."""
    size = len(request.messages[0].content.split())
    yield [Prefill(size, size)]
    for number in range(max_tokens):
        told: list[Event] = [] if number else [Started(size, 0), BlockOpened(0, "text")]
        yield [*told, Sampled(1), BlockDelta(0, f"{number} ")]
    yield [BlockClosed(0), Finished("length", None, Usage(size, 0, max_tokens))]


def breaking(request: GenerationRequest, max_tokens: int) -> Iterable[list[Event]]:
    """Says a word and fails."""
    yield [Started(1, 0), BlockOpened(0, "text"), Sampled(1), BlockDelta(0, "well ")]
    yield [Failed(EngineFailed("the storyteller lost the thread"))]


def vectors(request: GenerationRequest, embedding: Embedding) -> Iterable[list[Event]]:
    """A text becomes how many of its characters are a, b, c and so on, an input after the other."""
    assert request.embed is not None
    sizes = [len(prompt.text.split()) for prompt in request.embed.inputs]
    for index, prompt in enumerate(request.embed.inputs):
        counts = [float(prompt.text.count(chr(97 + letter))) for letter in range(embedding.dimensions)]
        vector = array("f", counts[: request.embed.dimensions])
        yield [Embedded(index, vector.tobytes()), Prefill(sum(sizes[: index + 1]), sum(sizes))]
    yield [Finished("stop", None, Usage(sum(sizes), 0, 0))]


@dataclass(frozen=True, slots=True)
class TalePrepared:
    request: GenerationRequest
    prompt_tokens: int
    max_tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class TaleHandle:
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def cancel(self) -> None:
        self.scope.cancel()

    def end_thought(self) -> None:
        """A tale has no thoughts."""


class TaleEngine:
    """Tells `tale(request, max_tokens)`, a batch every `pause_s`; `preparing_s` after it was asked.

    With an `embedding` it makes vectors too; see `vectors`.
    """

    def __init__(
        self,
        tale: Tale = words,
        *,
        slots: int = 2,
        ctx_tokens: int = 100,
        pause_s: float = 0.1,
        preparing_s: float = 0.0,
        embedding: Embedding | None = None,
    ) -> None:
        self.embedding = embedding
        self.capacity = Capacity(slots, slots * ctx_tokens, ctx_tokens)
        self.failure: EngineFailed | None = None
        self.on_capacity: list[Callable[[], None]] = []
        self.residence = None
        self.replicas = ()
        self.texts = None
        self.holdings = None
        self.chat_template = None
        self.told = 0
        self._tale = tale
        self._pause_s = pause_s
        self._preparing_s = preparing_s
        self._nursery: trio.Nursery | None = None
        self._open = 0

    async def load(self) -> None:
        """A tale is always known."""
        await trio.lowlevel.checkpoint()

    @property
    def learned(self) -> None:
        """A tale is told in one way."""
        return None

    def set_draining(self, replica: str, is_draining: bool) -> bool:
        """There is none."""
        return False

    def step_age_s(self) -> float | None:
        return None

    def check(self, request: GenerationRequest) -> None:
        """Nothing of a tale is plain to see."""

    async def prepare(self, request: GenerationRequest, *, client: str) -> TalePrepared:
        await trio.sleep(self._preparing_s)
        if request.embed is not None:
            return TalePrepared(request, sum(len(each.text.split()) for each in request.embed.inputs), 0)
        size = len(request.messages[0].content.split())
        size += sum(len(message.content.split()) for message in request.messages[1:])
        room = self.capacity.request_ctx_tokens - size
        wanted = request.max_tokens or room
        if room < 1 or (wanted > room and not request.is_clipped):
            raise ContextExceeded(
                "the tale is too long",
                prompt_tokens=size,
                limit_tokens=self.capacity.request_ctx_tokens,
                param="messages",
            )
        return TalePrepared(request, size, min(wanted, room))

    def cached_tokens(self, prepared: Prepared) -> int:
        return 0

    def submit(self, prepared: Prepared, choice: int, sink: Sink, *, max_tokens: int) -> TaleHandle:
        if self._nursery is None:
            raise EngineFailed("the engine is not running")
        handle = TaleHandle()
        self._open += 1
        self._nursery.start_soon(self._tell, prepared.request, sink, max_tokens, handle.scope)
        return handle

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def check_idle(self) -> None:
        assert not self._open, f"{self._open} tales are being told"

    def _told(
        self, request: GenerationRequest, max_tokens: int
    ) -> Iterable[list[Event] | trio.Event | float]:
        if request.embed is None:
            return self._tale(request, max_tokens)
        assert self.embedding is not None, "serving takes no such request"
        return vectors(request, self.embedding)

    async def _tell(
        self, request: GenerationRequest, sink: Sink, max_tokens: int, scope: trio.CancelScope
    ) -> None:
        try:
            with scope:
                for events in self._told(request, max_tokens):
                    if isinstance(events, trio.Event):
                        await events.wait()
                        continue
                    if isinstance(events, float):
                        await trio.sleep(events)
                        continue
                    await trio.sleep(self._pause_s)
                    self.told += 1
                    _call(sink.events, events)
        finally:
            self._open -= 1
            _call(sink.released, Waste())


def _call(callback: Callable[..., None], *args: object) -> None:
    try:
        callback(*args)
    except Exception:
        logger.exception("a sink raised")


@asynccontextmanager
async def running(engine: TaleEngine) -> AsyncIterator[TaleEngine]:
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        yield engine
        engine.check_idle()
        nursery.cancel_scope.cancel()
