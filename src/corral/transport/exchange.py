"""One request and its response, between a connection and the app that serves it."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, Scope

logger = logging.getLogger("corral.transport")

EXTENSION = "corral.transport"

Send = Callable[[ASGISendEvent | None], Awaitable[None]]


class ClientDisconnectedError(OSError):
    """The app sent to a client that is gone: how ASGI 2.4 ends an app that never asks `receive()`."""


def _is_disconnect(error: BaseException) -> bool:
    """Whether this is our ClientDisconnectedError, or what a framework (Quart, from 0.23 on) has made of it.

    A translation is raised `from` ours or `from None`; a bug in a `finally` that ours ran through is neither.
    """
    origin = error.__context__ if error.__suppress_context__ and not error.__cause__ else error.__cause__
    return isinstance(error, ClientDisconnectedError) or isinstance(origin, ClientDisconnectedError)


class Exchange:
    """What an app sees of a connection: `receive`, `send`, and the end of both.

    What the client sends never waits for the app: how much may lie here is bounded by whoever puts it in
    (HTTP/1.1 stops reading, HTTP/2 gives no more window), so that an app that does not read keeps neither
    the parser from its work nor a disconnect from being heard. It is kept as bytes, however small the pieces
    were in which it came.
    """

    def __init__(
        self, scope: Scope, send: Send, taken: Callable[[int], Awaitable[None]], end_within_s: float
    ):
        self.scope = scope
        self._send = send
        self._taken = taken
        self._end_within_s = end_within_s
        self._body = bytearray()
        self._has_more = True  # the client has not ended its body
        self._has_news = False  # there is something that the app has not been told
        self._arrived = trio.Event()
        self.gone = False

    async def put(self, message: ASGIReceiveEvent) -> None:
        """Hand a message to the app. Neither blocks nor is a checkpoint."""
        if message["type"] == "http.disconnect":
            self.disconnect_nowait()
        elif not self.gone and message["type"] == "http.request":
            self._body += message["body"]
            self._has_more = message["more_body"]
            if message["body"] or not self._has_more:
                self._has_news = True
                self._arrived.set()

    def disconnect_nowait(self) -> None:
        """Tell the app that the client is gone. Overtakes what of the body it has not read. Idempotent."""
        self.gone = True
        self._has_news = False
        self._body.clear()
        self._arrived.set()

    async def receive(self) -> ASGIReceiveEvent:
        """Wait for the next message: all of the body that is here. Cancel-safe; a checkpoint.

        After a disconnect it says so for ever.
        """
        await trio.lowlevel.checkpoint()
        while not self._has_news:
            if self.gone:
                return {"type": "http.disconnect"}
            self._arrived = trio.Event()
            await self._arrived.wait()
        body = bytes(self._body)
        self._body.clear()
        self._has_news = False
        if body:
            await self._taken(len(body))
        return {"type": "http.request", "body": body, "more_body": self._has_more}

    async def send(self, message: ASGISendEvent) -> None:
        """Write a message to the client; returns when there is room for the next.

        Bytes once accepted reach the wire in order even if the caller is cancelled meanwhile. Raises
        ClientDisconnectedError once the client is gone. A checkpoint.
        """
        if self.gone:
            # A framework that reacts to http.disconnect has cancelled us by now: let that be what is raised.
            await trio.lowlevel.checkpoint()
            raise ClientDisconnectedError("the client is gone")
        await self._send(message)

    async def run(self, app: AppWrapper) -> None:
        """Call the app, and end the response however the call ends. Only cancellation gets out of here."""
        try:
            await app(self.scope, self.receive, self.send, trio.to_thread.run_sync, trio.from_thread.run)
        except* Exception as errors:
            _, failures = errors.split(_is_disconnect)
            if failures is not None:
                self._log_failure(failures)
        finally:
            # None means: the app has no more to say. What that makes of the response (nothing, a 500, a cut)
            # is written under this shield, because the usual reason to be here is having been cancelled.
            with trio.move_on_after(self._end_within_s, shield=True):
                await self._send(None)

    def _log_failure(self, errors: BaseExceptionGroup[Any]) -> None:
        error: BaseException = errors
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if self.scope["type"] == "http":
            what = f"{self.scope['method']} {self.scope['path']!r}"
        else:
            what = self.scope["type"]
        logger.error("The app failed on %s from %s", what, self.scope.get("client"), exc_info=error)
