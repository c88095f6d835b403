"""The body of a stream: its keepalives, and what they may not do."""

import pytest
import trio
import trio.testing

from corral.http.stream import kept_alive
from corral.serving.mailbox import Mailbox


class Letters:
    """A source over a mailbox, as generations and viewers are."""

    def __init__(self, max_items: float) -> None:
        self.mailbox: Mailbox[bytes] = Mailbox(max_items)

    async def chunk(self) -> bytes:
        try:
            return b"".join(await self.mailbox.receive_all())
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def keepalive(self) -> bytes:
        return b"."


async def test_a_keepalive_is_written_whenever_nothing_was_for_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Letters(8)
    written: list[tuple[float, bytes]] = []

    async def write() -> None:
        async with kept_alive(source, keepalive_s=3) as stream:
            written.extend([(trio.current_time(), chunk) async for chunk in stream])

    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.sleep(4)
        source.mailbox.push_nowait(b"a")
        await trio.sleep(1)
        source.mailbox.push_nowait(b"b")
        await trio.sleep(7)
        source.mailbox.close()
    assert [(round(at - began_s), chunk) for at, chunk in written] == [
        (3, b"."),
        (4, b"a"),
        (5, b"b"),
        (8, b"."),
        (11, b"."),
    ]


async def test_a_keepalive_takes_no_room_in_a_mailbox_that_is_exactly_full(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Letters(2)
    async with kept_alive(source, keepalive_s=3) as stream:
        assert await anext(stream) == b"."
        source.mailbox.push_nowait(b"a")
        source.mailbox.push_nowait(b"b")
        await trio.sleep(60)  # the client takes nothing: nothing is written meanwhile
        assert source.mailbox.waiting == 2
        assert await anext(stream) == b"ab"


async def test_a_stream_that_is_cancelled_takes_its_keepalive_task_along(
    autojump_clock: trio.testing.MockClock,
) -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    with trio.move_on_after(10) as scope:
        async with kept_alive(Letters(2), keepalive_s=3) as stream:
            async for _ in stream:
                pass
    assert scope.cancelled_caught
    assert trio.lowlevel.current_statistics().tasks_living == before


async def test_a_source_that_fails_ends_the_stream_with_its_error() -> None:
    class Broken(Letters):
        async def chunk(self) -> bytes:
            raise RuntimeError("I am a bug")

    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="I am a bug")):
        async with kept_alive(Broken(1), keepalive_s=3) as stream:
            await anext(stream)
