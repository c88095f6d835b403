"""The bodies of responses: one nursery per stream, with its keepalive task.

Quart's loop is the writer: it asks for the next chunk when the last one has gone out. A chunk is all that
has happened since, encoded at once, so a reader a little behind gets fewer, larger writes. The keepalive
task ends the writer's wait when nothing was written for a while, and the writer then writes a keepalive
itself: frames never race, and nothing but news travels in a reader's channel.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Protocol, Self, cast

import trio
from quart import Response
from quart.wrappers.response import ResponseBody

from corral.dialects import StreamEncoder
from corral.errors import CorralError
from corral.events import Event, Failed, Finished
from corral.serving.generation import Batch

logger = logging.getLogger("corral.http")

EVENT_STREAM = "text/event-stream; charset=utf-8"
HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx: do not collect the stream before passing it on
}


class Source(Protocol):
    """Where a stream's chunks come from; each is whole frames."""

    async def chunk(self) -> bytes:
        """Wait for the next; the one before has been taken by the client's connection. A checkpoint.

        Cancelling it loses nothing: the next call goes on. Raises StopAsyncIteration at the end.
        """
        ...

    def keepalive(self) -> bytes:
        """What to write after a silence."""
        ...


def event_stream(source: Source, *, keepalive_s: float) -> Response:
    """A response of server-sent events, as long as the source has any."""
    response = Response(content_type=EVENT_STREAM, headers=HEADERS)
    # Of a body, Quart wants just this: to enter it, to read chunks from what that gives, and to leave it.
    response.response = cast(ResponseBody, kept_alive(source, keepalive_s=keepalive_s))
    response.timeout = None  # else Quart's RESPONSE_TIMEOUT cuts every stream after a minute
    return response


@asynccontextmanager
async def kept_alive(source: Source, *, keepalive_s: float) -> AsyncIterator[AsyncIterator[bytes]]:
    """The source's chunks, and a keepalive whenever there was none for `keepalive_s`.

    Cancelling it at any checkpoint loses at most the chunk in hand.
    """
    chunks = _Chunks(source)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chunks.keep_alive, keepalive_s)
        yield chunks
        nursery.cancel_scope.cancel()


class _Chunks:
    """Reads a source; `keep_alive` ends its wait, and it says so with a keepalive."""

    __slots__ = ("_source", "_wait", "_wrote_s")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._wait = trio.CancelScope()
        """Around the wait for the next chunk, while there is one."""
        self._wrote_s = trio.current_time()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self._wrote_s = trio.current_time()
        with trio.CancelScope() as self._wait:
            return await self._source.chunk()
        return self._source.keepalive()

    async def keep_alive(self, keepalive_s: float) -> None:
        """End every wait that lasts as long as this."""
        while True:
            due_s = self._wrote_s + keepalive_s
            if trio.current_time() < due_s:
                await trio.sleep_until(due_s)
            else:
                self._wait.cancel()  # harmless while a chunk is being written: that scope has been left
                await trio.sleep(keepalive_s)


class Answering(Protocol):
    """What is written: a Generation, or Several of them."""

    @property
    def choices(self) -> int: ...
    async def receive(self) -> list[Batch]: ...
    def writing(self, is_writing: bool) -> None: ...
    def delivered(self) -> None: ...
    def failed(self) -> None: ...


class GenerationSource:
    """Encodes a generation until all its choices have ended, and tells it how the writing goes."""

    __slots__ = ("_encoder", "_generation", "_has_started", "_running_choices")

    def __init__(self, generation: Answering, encoder: StreamEncoder) -> None:
        self._generation = generation
        self._encoder = encoder
        self._running_choices = generation.choices
        self._has_started = False

    async def chunk(self) -> bytes:
        self._generation.writing(False)
        chunk = await self._following() if self._has_started else self._encoder.start()
        self._has_started = True
        self._generation.writing(True)
        return chunk

    def keepalive(self) -> bytes:
        self._generation.writing(True)
        return self._encoder.keepalive()

    async def _following(self) -> bytes:
        while self._running_choices:
            if chunk := self._encoded(await self._generation.receive()):
                return chunk
        self._generation.delivered()
        raise StopAsyncIteration

    def _encoded(self, batches: list[Batch]) -> bytes:
        """Everything that waits, as one write; a failure comes after what was said before it."""
        frames: list[bytes] = []
        failure: CorralError | None = None
        try:
            for choice, events in batches:
                self._encode(choice, events, frames)
        except CorralError as error:
            failure = error
        except Exception:
            logger.exception("a stream could not be encoded")
            failure = CorralError("internal error")
            self._generation.failed()
        if failure is not None:
            self._running_choices = 0
            frames.append(self._encoder.fail(failure))
        elif not self._running_choices:
            frames.append(self._encoder.end())
        return b"".join(frames)

    def _encode(self, choice: int, events: list[Event], frames: list[bytes]) -> None:
        for event in events:
            if isinstance(event, Failed):
                raise event.error
            frames.append(self._encoder.encode(choice, event))
            self._running_choices -= isinstance(event, Finished)


class AnswerBody(ResponseBody):
    """A whole answer in one chunk, which tells its generation when the client's connection has taken it."""

    def __init__(self, answer: bytes, generation: Answering) -> None:
        self._answer: bytes | None = answer
        self._generation = generation

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
            self._generation.delivered()
            raise StopAsyncIteration
        answer, self._answer = self._answer, None
        return answer
