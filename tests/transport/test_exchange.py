"""What an exchange says of an app that ends badly: nothing if the client left, all if it has a bug."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import pytest
import trio

from corral.transport.exchange import Exchange

Send = Callable[..., Awaitable[None]]


class FrameworksOwnError(Exception):
    """What Quart, from 0.23 on, raises in place of ours."""


async def ours(send: Send) -> None:
    await send({})


async def translated(send: Send) -> None:
    try:
        await send({})
    except OSError:
        raise FrameworksOwnError from None


async def chained(send: Send) -> None:
    try:
        await send({})
    except OSError as error:
        raise FrameworksOwnError from error


async def bug_in_a_finally(send: Send) -> None:
    try:
        await send({})
    finally:
        raise ZeroDivisionError("a bug")


async def nothing(*_: object) -> None:
    pass


@pytest.mark.parametrize(
    ("handler", "logged"), [(ours, 0), (translated, 0), (chained, 0), (bug_in_a_finally, 1)]
)
@pytest.mark.parametrize("in_a_nursery", [False, True])
async def test_sending_to_a_client_that_is_gone_is_no_failure_of_the_app(
    handler: Callable[[Send], Awaitable[None]],
    logged: int,
    in_a_nursery: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: object, receive: object, send: Any, *_: object, **__: object) -> None:
        if in_a_nursery:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(nothing)
                nursery.start_soon(handler, send)
        else:
            await handler(send)

    scope: Any = {"type": "http", "method": "GET", "path": "/", "client": None}
    exchange = Exchange(scope, partial(nothing), nothing, end_within_s=1)
    exchange.disconnect_nowait()
    await exchange.run(app)
    assert len(caplog.records) == logged


async def test_small_pieces_of_a_body_become_one_message() -> None:
    read: list[int] = []

    async def taken(size: int) -> None:
        read.append(size)

    exchange = Exchange(cast(Any, {"type": "http"}), partial(nothing), taken, end_within_s=1)
    for piece in (b"a", b"", b"b"):
        await exchange.put({"type": "http.request", "body": piece, "more_body": True})
    assert await exchange.receive() == {"type": "http.request", "body": b"ab", "more_body": True}
    await exchange.put({"type": "http.request", "body": b"c", "more_body": True})
    await exchange.put({"type": "http.request", "body": b"", "more_body": False})
    assert await exchange.receive() == {"type": "http.request", "body": b"c", "more_body": False}
    assert read == [2, 1]
    exchange.disconnect_nowait()
    assert await exchange.receive() == {"type": "http.disconnect"}


async def test_an_empty_piece_is_no_news() -> None:
    exchange = Exchange(cast(Any, {"type": "http"}), partial(nothing), nothing, end_within_s=1)
    await exchange.put({"type": "http.request", "body": b"", "more_body": True})
    with trio.move_on_after(0) as waiting:
        await exchange.receive()
    assert waiting.cancelled_caught
