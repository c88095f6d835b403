"""A request from acceptance to its exit, over an engine that has neither tokens nor a model."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from tests.engine.tales import Tale, TaleEngine, asking, breaking, running, words

from corral.books.ledger import Ledger
from corral.books.record import About
from corral.errors import EngineFailed, QueueFull
from corral.serving.service import Service, ServiceOptions


class Client:
    """A peer that only remembers."""

    def __init__(self) -> None:
        self.is_aborted = False
        self.has_stalled = False

    def abort(self) -> None:
        self.is_aborted = True


def about(id: str) -> About:
    return About(id=id, api="tales", model="tales", streams=True, address="127.0.0.1")


@asynccontextmanager
async def serving(tale: Tale = words, *, queue_limit: int = 4, **options: int) -> AsyncIterator[Service]:
    """A service on a tale engine of one slot; at the end nothing of any request may be left."""
    async with running(TaleEngine(tale, slots=1, pause_s=1.0)) as engine:
        given = ServiceOptions(queue_requests=queue_limit, **options)
        service = Service(engine, given, Ledger(slots=engine.capacity.slots))
        yield service
        await service.wait_settled()
        service.check_idle()


async def test_an_engine_without_tokens_answers(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as service:
        prepared = await service.prepare(asking("count for me", max_tokens=3), "somebody")
        with service.open(prepared, "somebody", about("a"), Client()) as generation:
            [completion] = await generation.complete()
    assert completion.text == "0 1 2 "
    assert trio.current_time() == pytest.approx(5.0, abs=0.1), "a batch a second"
    assert service.ledger.totals.completion_tokens == 3


async def test_who_leaves_in_the_middle_makes_room_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as service:
        long = await service.prepare(asking("count", max_tokens=90), "somebody")
        short = await service.prepare(asking("count", max_tokens=1), "another")
        with trio.move_on_after(10.5), service.open(long, "somebody", about("long"), Client()) as generation:
            await generation.complete()
        with service.open(short, "another", about("short"), Client()) as generation:
            [completion] = await generation.complete()
        assert trio.current_time() == pytest.approx(10.5 + 3, abs=0.1)
    assert completion.text == "0 "


async def test_who_leaves_while_waiting_never_runs(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as service:
        prepared = await service.prepare(asking("count", max_tokens=5), "somebody")
        with service.open(prepared, "somebody", about("first"), Client()) as first:
            with service.open(prepared, "somebody", about("second"), Client()) as second:
                assert not second.record.lanes
            assert not service.waiting
            await first.complete()
    assert service.ledger.totals.completion_tokens == 5


async def test_the_queue_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(queue_limit=0) as service:
        prepared = await service.prepare(asking("count", max_tokens=5), "somebody")
        with (
            service.open(prepared, "somebody", about("first"), Client()),
            pytest.raises(QueueFull),
            service.open(prepared, "another", about("second"), Client()),
        ):
            pass


async def test_an_engine_that_fails_in_the_middle_is_told_as_it_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(breaking) as service:
        prepared = await service.prepare(asking("count"), "somebody")
        with (
            service.open(prepared, "somebody", about("a"), Client()) as generation,
            pytest.raises(EngineFailed, match="lost the thread"),
        ):
            await generation.complete()
    assert [outcome for _, outcome in service.ledger.totals.by_outcome] == ["failed"]


async def test_the_servers_own_cap_holds_where_the_client_names_none(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(max_output_tokens=2) as service:
        prepared = await service.prepare(asking("count"), "somebody")
        with service.open(prepared, "somebody", about("a"), Client()) as generation:
            [completion] = await generation.complete()
    assert completion.text == "0 1 "
