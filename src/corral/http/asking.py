"""What is asked and who asks: the body as its dialect reads it, and the rest of a request for the books."""

import secrets
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from quart import Request, g, request

from corral.books.record import About
from corral.dialects import Headers
from corral.dialects.session import session_of
from corral.http.body import Bodies
from corral.http.options import ModelCard

T = TypeVar("T", covariant=True)


class Parse(Protocol[T]):
    """As the dialects have it."""

    def __call__(self, body: bytes, headers: Headers, client: str) -> T: ...


class Accepted(Protocol):
    """A request that has been accepted, and is told how it is answered."""

    def answered(self, status: int) -> None: ...


async def asked_for(bodies: Bodies, parse: Parse[T], body: bytes) -> T:
    """What a dialect makes of the current request's body; raises what it raises. Notes its session.

    The session is read where the body is: off the event loop if that is large.
    """
    headers, client = headers_of(request), g.client
    read = partial(parse, headers=headers, client=client)
    call, g.session = await bodies.parse(partial(_with_session, read, headers), body)
    return call


def _with_session(read: Callable[[bytes], T], headers: Headers, body: bytes) -> tuple[T, str]:
    return read(body), session_of(body, headers)


def new_id(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(12)}"


def about(id: str, api: str, card: ModelCard, *, streams: bool) -> About:
    """Who sent the current request, whose body has been read."""
    return About(
        id=id,
        api=api,
        model=card.name,
        streams=streams,
        address=request.remote_addr or "",
        request_id=g.request_id,
        session=g.session,
    )


def accept(generation: Accepted) -> None:
    """Note that the current request is accepted: what goes wrong from now on is no refusal."""
    g.accepted = generation


def accepted() -> Accepted | None:
    """The current request, if it was accepted."""
    found: Accepted | None = g.get("accepted")
    return found


def headers_of(request: Request) -> Headers:
    """A request's headers as dialects see them."""
    headers: dict[str, str] = {}
    for name, value in request.headers:
        name = name.lower()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
