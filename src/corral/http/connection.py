"""A request's scope, one level above Quart's handler, the request as Quart sees it, and its connection.

Quart runs the handler first and sends the response afterwards, so what a handler acquires for a streamed
response would leak if the client left in between. Here one place encloses both: what is entered there is left
when the request is over, however it ends. The exit is synchronous: a disconnect cancels the request, and a
cancelled request could not await.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import trio
from quart import Request, request
from quart.wrappers.request import Body
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest
from quart_trio.wrappers.request import TrioBody
from werkzeug.exceptions import RequestEntityTooLarge

from corral.errors import InvalidRequest
from corral.http.target import Target, read_target
from corral.transport import EXTENSION

T = TypeVar("T")

UNREAD_BYTES = 64 * 1024
"""How much of a body is kept that no view reads."""

_HELD = "corral.held"
_TARGET = "corral.target"


class ScopedHTTPConnection(TrioASGIHTTPConnection):
    async def __call__(self, receive: Any, send: Any) -> None:
        scope = cast(dict[str, Any], self.scope)
        try:
            target: Target | InvalidRequest = read_target(scope["raw_path"])
        except InvalidRequest as error:
            target = error
        scope[_TARGET] = target
        # Quart parses what does not begin with a slash as a URL, and fails where it is none.
        scope["path"] = target.path if isinstance(target, Target) else "/"
        with Held() as held:
            scope[_HELD] = held
            await super().__call__(receive, send)

    async def _send_response(self, send: Any, response: Any) -> None:
        if getattr(self, "_disconnected", False):  # of Quart 0.23; quart-trio lets out what that raises
            await trio.lowlevel.checkpoint()  # cancelled since the client left
        await super()._send_response(send, response)


class Held:
    """A place for one context manager, which is left when this one is. An ExitStack takes 800 bytes more."""

    __slots__ = ("_manager",)

    def __init__(self) -> None:
        self._manager: AbstractContextManager[Any] | None = None

    def enter(self, manager: AbstractContextManager[T]) -> T:
        """Enter a manager, the only one; raises what its entering raises, and then there is none."""
        assert self._manager is None, "a request holds one thing"
        entered = manager.__enter__()
        self._manager = manager
        return entered

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return None if self._manager is None else self._manager.__exit__(exc_type, exc_value, traceback)


@dataclass(frozen=True, slots=True)
class ConnectedPeer:
    """The client at the other end of a connection of `corral.transport`; a `serving.Peer`."""

    _abort: Callable[[], None]
    _has_stalled: Callable[[], bool]

    def abort(self) -> None:
        """Drop the connection, or over HTTP/2 the stream: its request is cancelled at once."""
        self._abort()

    @property
    def has_stalled(self) -> bool:
        return self._has_stalled()


def peer_of(request: Request) -> ConnectedPeer:
    """Who a request came from."""
    extension = cast(dict[str, Any], request.scope)["extensions"][EXTENSION]
    return ConnectedPeer(extension["abort"], extension["stalled"])


class UnhurriedBody(TrioBody):
    """A body that arrives unasked, and is dropped unless somebody reads it.

    Quart takes from the transport whatever comes, also while a response streams that reads nothing.
    `http.body` counts what is read; this bounds what is not.
    """

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(None, None)
        self._is_wanted = False
        self.held_bytes = 0
        """What has arrived while nobody read; 0 where it was dropped, or is being read."""

    def __aiter__(self) -> Body:
        self._is_wanted = True
        self.held_bytes = 0
        return super().__aiter__()

    def append(self, data: bytes) -> None:
        """Quart 0.22 hands over what arrives here,"""
        if self._takes(data):
            super().append(data)

    async def put(self, data: bytes) -> None:
        """and Quart 0.23 here."""
        if self._takes(data):
            await cast(Any, super()).put(data)

    def _takes(self, data: bytes) -> bool:
        if self._is_wanted:
            return True
        if self._must_raise is None and self.held_bytes + len(data) <= UNREAD_BYTES:
            self.held_bytes += len(data)
            return True
        self.held_bytes = 0
        self._must_raise = RequestEntityTooLarge()
        if isinstance(self._data, bytearray):
            self._data.clear()
        return False


class CorralRequest(TrioRequest):
    body_class = UnhurriedBody


def enter_for_request(manager: AbstractContextManager[T]) -> T:
    """Enter a context manager that is left when the current request, response included, is over."""
    held: Held = cast(dict[str, Any], request.scope)[_HELD]
    return held.enter(manager)


def target_of_request() -> Target:
    """What the current request's first line asks for. Raises InvalidRequest."""
    target: Target | InvalidRequest = cast(dict[str, Any], request.scope)[_TARGET]
    if isinstance(target, InvalidRequest):
        raise target
    return target
