"""What is asked and who asks: the body as its dialect reads it, and the rest of a request for the books."""

import secrets
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from quart import Request, g, request

from corral.books.record import About
from corral.dialects import Headers
from corral.dialects.session import model_of, session_of
from corral.http.body import Bodies
from corral.serving.models import Model, Models

T = TypeVar("T", covariant=True)


class Parse(Protocol[T]):
    """As the dialects have it."""

    def __call__(self, body: bytes, headers: Headers, client: str) -> T: ...


class Accepted(Protocol):
    """A request that has been accepted, and is told how it is answered."""

    def answered(self, status: int) -> None: ...


async def asked_for(models: Models, bodies: Bodies, parse: Parse[T], body: bytes) -> tuple[T, Model]:
    """What a dialect makes of the current request's body, and the model that it is for. Notes its session.

    All is read where the body is: off the event loop if that is large. Raises what the dialect does, and
    ModelNotFound.
    """
    headers, client = headers_of(request), g.client
    read = partial(parse, headers=headers, client=client)
    call, g.session, name = await bodies.parse(partial(_read, read, headers, models.are_several), body)
    return call, models.asked_for(name)


def _read(
    read: Callable[[bytes], T], headers: Headers, wants_model: bool, body: bytes
) -> tuple[T, str, str | None]:
    return read(body), session_of(body, headers), model_of(body) if wants_model else None


def told_by(parse: Callable[[bytes], T]) -> Parse[T]:
    """A dialect's way to read what does not depend on who asks."""
    return lambda body, headers, client: parse(body)


def new_id(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(12)}"


def about(id: str, api: str, model: Model, *, streams: bool) -> About:
    """Who sent the current request, whose body has been read."""
    return About(
        id=id,
        api=api,
        model=model.name,
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
