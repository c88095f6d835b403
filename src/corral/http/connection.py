"""A request's scope, one level above Quart's handler.

Quart runs the handler first and sends the response afterwards, so what a handler acquires for a streamed
response would leak if the client left in between. Here an exit stack encloses both: whatever is entered on
it is left when the request is over, however it ends. Exits are synchronous: a disconnect cancels the
request, and a cancelled request could not await.
"""

from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeVar, cast

from quart import request
from quart_trio.asgi import TrioASGIHTTPConnection

T = TypeVar("T")

_EXITS = "corral.exits"


class ScopedHTTPConnection(TrioASGIHTTPConnection):
    async def __call__(self, receive: Any, send: Any) -> None:
        with ExitStack() as exits:
            cast(dict[str, Any], self.scope)[_EXITS] = exits
            await super().__call__(receive, send)


def enter_for_request(manager: AbstractContextManager[T]) -> T:
    """Enter a context manager that is left when the current request, response included, is over."""
    exits: ExitStack = cast(dict[str, Any], request.scope)[_EXITS]
    return exits.enter_context(manager)
