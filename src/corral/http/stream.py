"""The bodies of responses: one nursery per stream, with its keepalive task.

Quart's loop is the writer: it asks for the next chunk when the last one has gone out. A chunk is all that
has happened since, encoded at once, so a reader a little behind gets fewer, larger writes. The keepalive
task pushes a tick through the same channel when nothing was written for a while, so frames never race.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

import trio
from quart.wrappers.response import ResponseBody

from corral.books.record import Record
from corral.dialects import StreamEncoder
from corral.errors import CorralError
from corral.events import Event, Failed, Finished
from corral.serving.generation import Batch, Generation

logger = logging.getLogger("corral.http")

EVENT_STREAM = "text/event-stream; charset=utf-8"
HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx: do not collect the stream before passing it on
}


class EventStreamBody(ResponseBody, ABC):
    """Server-sent events until `_next` raises StopAsyncIteration.

    Cancelling it at any checkpoint loses at most the chunk in hand. `abort` drops the client's connection;
    it is called when the client has fallen too far behind.
    """

    def __init__(self, *, keepalive_s: float, abort: Callable[[], None]) -> None:
        self._keepalive_s = keepalive_s
        self._abort = abort
        self._wrote_s = 0.0
        self._is_evicted = False
        self._nursery: trio.Nursery | None = None
        self._nursery_manager = trio.open_nursery()

    @abstractmethod
    async def _next(self) -> bytes:
        """The next chunk: whole frames. The one before has been taken by the client's connection."""

    @abstractmethod
    def _tick(self) -> None:
        """Nothing was written for a while: make `_next` return a keepalive. May not block."""

    async def __aenter__(self) -> Self:
        self._nursery = nursery = await self._nursery_manager.__aenter__()
        if self._is_evicted:
            nursery.cancel_scope.cancel()
        self._wrote_s = trio.current_time()
        nursery.start_soon(self._keep_alive)
        return self

    async def __aexit__(  # type: ignore[override]  # Quart declares None, but the nursery must be heard
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
        # What this waits for has just been cancelled.
        return bool(await self._nursery_manager.__aexit__(exc_type, exc_value, traceback))  # noqa: ASYNC102

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self._wrote_s = trio.current_time()
        return await self._next()

    async def _keep_alive(self) -> None:
        while True:
            due_s = self._wrote_s + self._keepalive_s
            if trio.current_time() < due_s:
                await trio.sleep_until(due_s)
            else:
                self._tick()
                await trio.sleep(self._keepalive_s)

    def _evict(self) -> None:
        # Quart enters the body once the headers are out, which a client can delay: it may be too late then.
        self._is_evicted = True
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
        self._abort()


class GenerationBody(EventStreamBody):
    """Encodes a generation until all its choices have ended, and tells its record how the writing goes."""

    def __init__(
        self,
        generation: Generation,
        encoder: StreamEncoder,
        *,
        keepalive_s: float,
        abort: Callable[[], None],
    ) -> None:
        super().__init__(keepalive_s=keepalive_s, abort=abort)
        self._generation = generation
        self._record = generation.record
        self._encoder = encoder
        self._running_choices = generation.prepared.request.n
        self._has_started = False
        generation.on_evicted = self._evict

    async def _next(self) -> bytes:
        self._record.writing(False)
        chunk = await self._following() if self._has_started else self._encoder.start()
        self._has_started = True
        self._record.writing(True)
        return chunk

    def _tick(self) -> None:
        self._generation.subscription.push_nowait(None)

    async def _following(self) -> bytes:
        while self._running_choices:
            chunk = self._chunk(await self._generation.subscription.receive_waiting())
            if chunk:
                return chunk
        self._record.delivered()
        raise StopAsyncIteration

    def _chunk(self, batches: list[Batch | None]) -> bytes:
        """Everything that waits, as one write; a failure comes after what was said before it."""
        frames: list[bytes] = []
        failure: CorralError | None = None
        try:
            for batch in batches:
                if batch is not None:
                    self._encode(*batch, frames)
        except CorralError as error:
            failure = error
        except Exception:
            logger.exception("a stream could not be encoded")
            failure = CorralError("internal error")
            self._record.ended_by("failed")
        if failure is not None:
            self._running_choices = 0
            frames.append(self._encoder.fail(failure))
        elif not self._running_choices:
            frames.append(self._encoder.end())
        elif None in batches and not any(frames):
            frames.append(self._encoder.keepalive())
        return b"".join(frames)

    def _encode(self, choice: int, events: list[Event], frames: list[bytes]) -> None:
        for event in events:
            if isinstance(event, Failed):
                raise event.error
            frames.append(self._encoder.encode(choice, event))
            self._running_choices -= isinstance(event, Finished)


class AnswerBody(ResponseBody):
    """A whole answer in one chunk, which tells its record when the client's connection has taken it."""

    def __init__(self, answer: bytes, record: Record) -> None:
        self._answer: bytes | None = answer
        self._record = record

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._answer is None:
            self._record.delivered()
            raise StopAsyncIteration
        answer, self._answer = self._answer, None
        return answer
