"""A request from acceptance to its exit, over an engine that has neither tokens nor a model."""

import math
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing
from tests.engine.tales import (
    Tale,
    TaleEngine,
    TaleHandle,
    TalePrepared,
    asking,
    breaking,
    running,
    words,
)

from corral.books.ledger import Ledger
from corral.books.record import About
from corral.engine.contract import Capacity, Prepared, Sink
from corral.errors import (
    ContextExceeded,
    CorralError,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    QueueFull,
    ShutDown,
)
from corral.request import GenerationRequest
from corral.serving.generation import WARM_TOKENS, Generation
from corral.serving.service import FAREWELL_S, Service, ServiceOptions


class Client:
    """A peer that only remembers."""

    def __init__(self) -> None:
        self.is_aborted = False
        self.has_stalled = False

    def abort(self) -> None:
        self.is_aborted = True


class LateEngine(TaleEngine):
    """Has prepared a request also where nobody wants it any more."""

    async def prepare(self, request: GenerationRequest, *, client: str) -> TalePrepared:
        with trio.CancelScope(shield=True):
            prepared = await super().prepare(request, client=client)
            assert trio.current_effective_deadline() == math.inf, "it is shielded"
        return prepared


class StubbornEngine(TaleEngine):
    """Goes on when it is cancelled, as one whose step hangs does."""

    def submit(self, prepared: Prepared, choice: int, sink: Sink, *, max_tokens: int) -> TaleHandle:
        super().submit(prepared, choice, sink, max_tokens=max_tokens)
        return TaleHandle()


def about(id: str) -> About:
    return About(id=id, api="tales", model="tales", streams=True, address="127.0.0.1")


@asynccontextmanager
async def serving(
    tale: Tale = words,
    *,
    kind: type[TaleEngine] = TaleEngine,
    queue_limit: int = 4,
    preparing_s: float = 0.0,
    **options: float,
) -> AsyncIterator[Service]:
    """A service on a tale engine of one slot; at the end nothing of any request may be left."""
    async with running(kind(tale, slots=1, pause_s=1.0, preparing_s=preparing_s)) as engine:
        given = ServiceOptions(queue_requests=queue_limit, **options)  # type: ignore[arg-type]
        service = Service(engine, given, Ledger())
        async with trio.open_nursery() as nursery:
            await nursery.start(service.run)
            yield service
            await service.wait_settled()
            service.check_idle()
            nursery.cancel_scope.cancel()


async def test_an_engine_without_tokens_answers(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as service:
        request = asking("count for me", max_tokens=3)
        with service.open(request, "somebody", about("a"), Client()) as generation:
            [completion] = await generation.complete()
    assert completion.text == "0 1 2 "
    assert trio.current_time() == pytest.approx(5.0, abs=0.1), "a batch a second"
    assert service.ledger.totals.tokens.completion == 3


async def test_who_leaves_in_the_middle_makes_room_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as service:
        long, short = asking("count", max_tokens=90), asking("count", max_tokens=1)
        with trio.move_on_after(10.5), service.open(long, "somebody", about("long"), Client()) as generation:
            await generation.complete()
        with service.open(short, "another", about("short"), Client()) as generation:
            [completion] = await generation.complete()
        assert trio.current_time() == pytest.approx(10.5 + 3, abs=0.1)
    assert completion.text == "0 "


async def test_who_leaves_while_waiting_never_runs(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as service:
        request = asking("count", max_tokens=5)
        with service.open(request, "somebody", about("first"), Client()) as first:
            await first.prepared()
            with service.open(request, "somebody", about("second"), Client()) as second:
                await second.prepared()
                assert not second.record.lanes
                assert service.waiting
            assert not service.waiting
            await first.complete()
    assert service.ledger.totals.tokens.completion == 5


@pytest.mark.parametrize("is_prepared", [True, False])
async def test_who_wants_more_slots_than_are_left_is_told_and_holds_up_nobody(
    is_prepared: bool, autojump_clock: trio.testing.MockClock
) -> None:
    request = asking("count", max_tokens=5)
    async with running(TaleEngine(words, slots=2, pause_s=1.0, preparing_s=1.0)) as engine:

        def resize(slots: int) -> None:
            engine.capacity = Capacity(slots, 1000, 1000)
            for callback in engine.on_capacity:
                callback()

        service = Service(engine, ServiceOptions(queue_requests=4), Ledger())
        async with trio.open_nursery() as nursery:
            await nursery.start(service.run)
            with trio.fail_after(100), ExitStack() as held:
                first = held.enter_context(service.open(request, "a", about("first"), Client()))
                await first.prepared()
                double = replace(request, n=2)
                two = held.enter_context(service.open(double, "b", about("two"), Client()))
                third = held.enter_context(service.open(request, "c", about("third"), Client()))
                if is_prepared:
                    await two.prepared()
                resize(0)
                resize(1)
                await first.complete()
                with pytest.raises(InvalidRequest, match="n is 2, but this server has only 1 slots now"):
                    await two.complete()
                [completion] = await third.complete()
            await service.wait_settled()
            service.check_idle()
            nursery.cancel_scope.cancel()
    assert completion.text.startswith("0 1 ")


@pytest.mark.parametrize(
    ("cached_tokens", "is_first"),
    [(WARM_TOKENS, True), (WARM_TOKENS - 1, False)],
)
async def test_whose_prompt_is_cached_goes_before_who_came_earlier(
    cached_tokens: int, is_first: bool, autojump_clock: trio.testing.MockClock
) -> None:
    class Remembering(TaleEngine):
        """Has computed what is said again."""

        def cached_tokens(self, prepared: Prepared) -> int:
            return cached_tokens if "again" in str(prepared.request) else 0

    async with serving(kind=Remembering) as service:
        with ExitStack() as open_now:
            asked: list[Generation] = []
            for text in ("count", "other", "again " * WARM_TOKENS):
                opening = service.open(asking(text, max_tokens=1), "somebody", about(text[:5]), Client())
                asked.append(open_now.enter_context(opening))
                await asked[-1].prepared()
            for generation in asked:
                await generation.complete()
            _, new, known = (generation.record.life.admitted_s or 0.0 for generation in asked)
            assert (known < new) is is_first


async def test_the_queue_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(queue_limit=0) as service:
        request = asking("count", max_tokens=5)
        with (
            service.open(request, "somebody", about("first"), Client()),
            pytest.raises(QueueFull),
            service.open(request, "another", about("second"), Client()),
        ):
            pass


async def test_an_engine_that_fails_in_the_middle_is_told_as_it_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(breaking) as service:
        with (
            service.open(asking("count"), "somebody", about("a"), Client()) as generation,
            pytest.raises(EngineFailed, match="lost the thread"),
        ):
            await generation.complete()
    assert [outcome for _, outcome in service.ledger.totals.by_outcome] == ["failed"]


async def test_the_servers_own_cap_holds_where_the_client_names_none(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(max_output_tokens=2) as service:
        with service.open(asking("count"), "somebody", about("a"), Client()) as generation:
            [completion] = await generation.complete()
    assert completion.text == "0 1 "


async def test_a_request_is_in_the_books_while_it_is_prepared(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(preparing_s=3.0) as service:
        with service.open(
            asking("count for me", max_tokens=1), "somebody", about("a"), Client()
        ) as generation:
            record = service.ledger.live["a"]
            await trio.sleep(2.5)
            assert record.life.engine_state == "preparing"
            await generation.prepared()
            assert (record.life.engine_state, record.prompt_tokens) == ("prefill", 3)
            await generation.complete()
        assert record.life.spent_s()["preparing"] == pytest.approx(3.0, abs=0.1)
        assert record.life.spent_s()["queued"] == 0


async def test_who_leaves_while_it_is_prepared_leaves_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(preparing_s=3600.0, queue_limit=0) as service:
        for id in ("a", "b"):  # the first one's place is free again
            with service.open(asking("count"), "somebody", about(id), Client()):
                await trio.sleep(1)
            assert not service.ledger.live
    assert service.ledger.totals.by_outcome == {("tales", "disconnected"): 2}


async def test_who_leaves_in_the_moment_it_is_prepared_never_runs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(preparing_s=2.0, kind=LateEngine) as service:
        with service.open(asking("count"), "somebody", about("a"), Client()) as generation:
            await trio.sleep(1.0)
        await trio.sleep(2.0)
        assert not generation.record.lanes
    assert service.ledger.totals.tokens.completion == 0


async def test_who_is_prepared_counts_in_the_queues_limit(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(preparing_s=5.0, queue_limit=1) as service:
        request = asking("count", max_tokens=1)
        with (
            service.open(request, "somebody", about("will start"), Client()) as first,
            service.open(request, "another", about("will wait"), Client()) as second,
        ):
            with pytest.raises(QueueFull), service.open(request, "a third", about("x"), Client()):
                pass
            await first.complete()
            await second.complete()


@pytest.mark.parametrize("reads", ["prepared", "receive"])
async def test_what_cannot_be_prepared_is_refused_to_who_waits_for_it_and_to_who_reads(
    reads: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(preparing_s=1.0) as service:
        with service.open(asking("word " * 200), "somebody", about("a"), Client()) as generation:
            if reads == "prepared":
                with pytest.raises(ContextExceeded):
                    await generation.prepared()
            else:
                with pytest.raises(ContextExceeded):
                    await generation.complete()
            assert generation.record.error == "context_exceeded"
    assert service.ledger.totals.by_outcome == {("tales", "refused"): 1}


async def test_a_bug_in_preparing_fails_the_request_and_nothing_else(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as service:
        broken = replace(asking("count"), messages=())  # of which the tale engine asks for the first
        with (
            service.open(broken, "somebody", about("a"), Client()) as generation,
            pytest.raises(CorralError, match="internal error"),
        ):
            await generation.prepared()
        with service.open(asking("count", max_tokens=1), "somebody", about("b"), Client()) as generation:
            await generation.complete()
    assert "IndexError" in caplog.text
    assert service.ledger.totals.by_outcome == {("tales", "failed"): 1, ("tales", "disconnected"): 1}


async def test_the_deadline_holds_while_it_is_prepared(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(preparing_s=3600.0, request_deadline_s=10.0) as service:
        with service.open(asking("count"), "somebody", about("a"), Client()) as generation:
            with pytest.raises(DeadlineExceeded):
                await generation.prepared()
            assert trio.current_time() == pytest.approx(10.0, abs=0.1)


async def test_a_shutdown_ends_what_is_prepared_when_it_has_had_its_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(preparing_s=3600.0) as service:
        async with trio.open_nursery() as nursery:
            with service.open(asking("count"), "somebody", about("a"), Client()) as generation:
                nursery.start_soon(service.drain, 4.0)
                with pytest.raises(ShutDown):
                    await generation.prepared()
        assert trio.current_time() == pytest.approx(4.0, abs=0.1)


async def test_a_shutdown_does_not_wait_for_an_engine_that_works_for_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    engine = StubbornEngine(slots=1, pause_s=1.0)
    service = Service(engine, ServiceOptions(), Ledger())
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await nursery.start(service.run)
        with service.open(asking("count"), "somebody", about("a"), Client()) as generation:
            await generation.receive()
        began_s = trio.current_time()
        await service.drain(60.0)
        assert trio.current_time() - began_s == pytest.approx(FAREWELL_S, abs=0.1)
        nursery.cancel_scope.cancel()
