"""The body of a streamed response: one nursery per connection, with its keepalive task.

Quart's loop is the writer: it asks for the next chunk when the last one has gone out. A chunk is all that
has happened since, encoded at once, so a reader a little behind gets fewer, larger writes. The keepalive
task pushes a tick through the same channel when nothing was written for a while, so frames never race.
"""

import logging
from collections.abc import Callable
from types import TracebackType

import trio
from quart.wrappers.response import ResponseBody

from corral.dialects import StreamEncoder
from corral.errors import CorralError
from corral.events import Event, Failed, Finished
from corral.serving.generation import Batch, Generation

logger = logging.getLogger("corral.http")

HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx: do not collect the stream before passing it on
}


class EventStreamBody(ResponseBody):
    """Encodes a generation as server-sent events until all its choices have ended.

    Cancelling it at any checkpoint loses at most the chunk in hand. `abort` drops the client's connection;
    it is called when the client has fallen too far behind.
    """

    def __init__(
        self,
        generation: Generation,
        encoder: StreamEncoder,
        *,
        keepalive_s: float,
        abort: Callable[[], None],
    ) -> None:
        self._generation = generation
        self._encoder = encoder
        self._keepalive_s = keepalive_s
        self._abort = abort
        self._running_choices = generation.prepared.request.n
        self._has_started = False
        self._wrote_s = 0.0
        self._nursery_manager = trio.open_nursery()

    async def __aenter__(self) -> "EventStreamBody":
        self._nursery = await self._nursery_manager.__aenter__()
        self._wrote_s = trio.current_time()
        self._generation.on_evicted = self._evict
        self._nursery.start_soon(self._keep_alive)
        return self

    async def __aexit__(  # type: ignore[override]  # Quart declares None, but the nursery must be heard
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._nursery.cancel_scope.cancel()
        return bool(await self._nursery_manager.__aexit__(exc_type, exc_value, traceback))

    def __aiter__(self) -> "EventStreamBody":
        return self

    async def __anext__(self) -> bytes:
        if not self._has_started:
            self._has_started = True
            return self._encoder.start()
        self._wrote_s = trio.current_time()
        while self._running_choices:
            chunk = self._chunk(await self._generation.subscription.receive_waiting())
            if chunk:
                return chunk
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

    async def _keep_alive(self) -> None:
        while True:
            due_s = self._wrote_s + self._keepalive_s
            if trio.current_time() < due_s:
                await trio.sleep_until(due_s)
            else:
                self._generation.subscription.push_nowait(None)
                await trio.sleep(self._keepalive_s)

    def _evict(self) -> None:
        self._nursery.cancel_scope.cancel()
        self._abort()
