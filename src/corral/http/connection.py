"""A request's scope, one level above Quart's handler, and the connection it came on.

Quart runs the handler first and sends the response afterwards, so what a handler acquires for a streamed
response would leak if the client left in between. Here an exit stack encloses both: whatever is entered on
it is left when the request is over, however it ends. Exits are synchronous: a disconnect cancels the
request, and a cancelled request could not await.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from quart import Request, request
from quart_trio.asgi import TrioASGIHTTPConnection

from corral.transport import EXTENSION

T = TypeVar("T")

_EXITS = "corral.exits"


class ScopedHTTPConnection(TrioASGIHTTPConnection):
    async def __call__(self, receive: Any, send: Any) -> None:
        with ExitStack() as exits:
            cast(dict[str, Any], self.scope)[_EXITS] = exits
            await super().__call__(receive, send)


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


def enter_for_request(manager: AbstractContextManager[T]) -> T:
    """Enter a context manager that is left when the current request, response included, is over."""
    exits: ExitStack = cast(dict[str, Any], request.scope)[_EXITS]
    return exits.enter_context(manager)
