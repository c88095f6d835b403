"""How long those that have left keep their slots, by what an upstream says it computes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from corral.engine.upstream.residue import LOOKS, MOST_S, Residue


class Upstream:
    """Says that it computes `busy`, or hangs; `asked` of them are ours and have not left."""

    def __init__(self) -> None:
        self.busy: int | None = 0
        self.asked = 0
        self.tells = True
        self.is_shared = False
        self.hangs = False
        self.looks = 0

    async def say(self) -> int | None:
        self.looks += 1
        if self.hangs:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return self.busy

    def found_shared(self) -> None:
        self.is_shared, self.tells = True, False


@asynccontextmanager
async def looking(upstream: Upstream) -> AsyncIterator[Residue]:
    residue = Residue(upstream.say, lambda: upstream.tells, lambda: upstream.asked, upstream.found_shared)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(residue.run)
        yield residue
        nursery.cancel_scope.cancel()


async def test_a_neighbour_of_which_nothing_was_heard_yet_is_not_taken_for_the_gone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    upstream = Upstream()
    upstream.busy = upstream.asked = 1
    async with looking(upstream) as residue:
        assert await residue.gone() < 0.1


async def test_strangers_that_never_leave_are_noticed_and_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    upstream = Upstream()
    upstream.busy = 3
    async with looking(upstream) as residue:
        assert await residue.gone() == pytest.approx(LOOKS * 0.25, abs=2)
        assert upstream.is_shared
        assert upstream.looks == LOOKS
        assert await residue.gone() == 0


async def test_what_ends_one_after_the_other_is_ours(autojump_clock: trio.testing.MockClock) -> None:
    upstream = Upstream()
    upstream.busy = 4

    async def ends_slowly() -> None:
        while upstream.busy:
            await trio.sleep(3.0)
            upstream.busy -= 1

    async with looking(upstream) as residue, trio.open_nursery() as nursery:
        nursery.start_soon(ends_slowly)
        for _ in range(4):
            nursery.start_soon(residue.gone)
    assert not upstream.is_shared
    assert residue.total_s == pytest.approx(3 + 6 + 9 + 12, abs=2)


async def test_a_look_that_hangs_holds_a_slot_for_so_long_and_no_longer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    upstream = Upstream()
    upstream.hangs = True
    async with looking(upstream) as residue:
        assert await residue.gone() == pytest.approx(MOST_S, abs=1)


@pytest.mark.parametrize("hangs", [True, False])
async def test_one_that_is_given_up_is_not_looked_at_any_more(
    hangs: bool, autojump_clock: trio.testing.MockClock
) -> None:
    upstream = Upstream()
    upstream.busy, upstream.hangs = 1, hangs
    async with looking(upstream) as residue, trio.open_nursery() as nursery:
        nursery.start_soon(residue.gone)
        await trio.sleep(1.0)
        upstream.tells = False
        residue.give_up()
    assert trio.current_time() == pytest.approx(1.0, abs=0.1)
