"""The trio side of the engine: tasks, cancellation, and a thread that dies."""

from collections.abc import Sequence

import pytest
import trio
import trio.lowlevel

from corral.engine.local.backend import Chunk
from corral.engine.local.engine import Engine, Subscriber
from corral.engine.local.scripted import ScriptedBackend
from corral.errors import EngineFailed
from corral.events import Event, Failed, Finished
from corral.request import Sampling


class Reader:
    """A subscriber that remembers, and can be waited for."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.released = trio.Event()
        self.subscriber = Subscriber(self.events.extend, lambda _: self.released.set())


def engine_on(backend: ScriptedBackend) -> Engine:
    return Engine(backend, slots=2, step_budget_ms=30)


async def test_events_arrive_in_order_and_the_release_comes_last() -> None:
    engine = engine_on(ScriptedBackend())
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        reader = Reader()
        engine.submit([1, 2, 3], Sampling(), reader.subscriber, max_tokens=10)
        await reader.released.wait()
        assert isinstance(reader.events[-1], Finished)
        engine.check_idle()
        nursery.cancel_scope.cancel()


async def test_cancelling_releases_the_slot_without_an_ending() -> None:
    engine = engine_on(ScriptedBackend())
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        reader = Reader()
        key = engine.submit([1, 2, 3], Sampling(), reader.subscriber, max_tokens=4000)
        engine.cancel(key)
        await reader.released.wait()
        assert not any(isinstance(event, Finished | Failed) for event in reader.events)
        engine.check_idle()
        nursery.cancel_scope.cancel()


async def test_cancelling_the_engine_ends_its_thread() -> None:
    steps: list[int] = []

    def count(chunks: Sequence[Chunk]) -> None:
        steps.append(len(chunks))

    engine = engine_on(ScriptedBackend(on_step=count))
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        engine.submit([1], Sampling(), Reader().subscriber, max_tokens=4000)
        while not steps:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    seen = len(steps)
    await trio.lowlevel.checkpoint()
    assert len(steps) == seen
    with pytest.raises(EngineFailed, match="not running"):
        engine.submit([1], Sampling(), Reader().subscriber, max_tokens=1)


async def test_a_thread_that_dies_fails_every_task_and_refuses_new_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def die(chunks: Sequence[Chunk]) -> None:
        raise MemoryError("no more")

    engine = engine_on(ScriptedBackend(on_step=die))
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        reader = Reader()
        engine.submit([1], Sampling(), reader.subscriber, max_tokens=5)
        await reader.released.wait()
        [failed] = reader.events
        assert isinstance(failed, Failed)
        assert "no more" not in failed.error.message
        assert engine.failure is failed.error
        with pytest.raises(EngineFailed):
            engine.submit([1], Sampling(), Reader().subscriber, max_tokens=5)
        nursery.cancel_scope.cancel()
    assert "MemoryError" in caplog.text


async def test_a_subscriber_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    engine = engine_on(ScriptedBackend())

    def refuse(events: list[Event]) -> None:
        raise RuntimeError("I am a bug")

    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        broken, reader = trio.Event(), Reader()
        engine.submit([1], Sampling(), Subscriber(refuse, lambda _: broken.set()), max_tokens=5)
        engine.submit([1], Sampling(), reader.subscriber, max_tokens=5)
        await broken.wait()
        await reader.released.wait()
        assert isinstance(reader.events[-1], Finished)
        nursery.cancel_scope.cancel()
    assert "I am a bug" in caplog.text
