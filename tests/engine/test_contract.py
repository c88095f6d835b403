"""What serving relies on, of every engine: the local one, one that has neither tokens nor a model, and one
whose model is behind HTTP."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from tests.engine.tales import TaleEngine, asking
from tests.engine.upstream.scripted import ScriptedUpstream

from corral.engine.contract import Embedding, Engine, Handle, Waste
from corral.engine.local.engine import LocalEngine
from corral.engine.local.options import EngineOptions
from corral.engine.local.scripted import ScriptedBackend, embeds
from corral.engine.shelf.engine import Opened, ShelvedEngine
from corral.engine.shelf.shelf import Shelf
from corral.engine.upstream.engine import UpstreamEngine
from corral.engine.upstream.options import FleetOptions
from corral.errors import ContextExceeded, EngineFailed, InvalidRequest
from corral.events import Embedded, Event, Failed, Finished, Started, Usage
from corral.request import Embed, GenerationRequest, RawPrompt

CTX_TOKENS = 10_000
STEP_S = 0.001


class Listener:
    """A sink that remembers, and can be waited for."""

    def __init__(self) -> None:
        self.events_so_far: list[Event] = []
        self.releases: list[Waste] = []
        self.has_begun = trio.Event()
        self.is_released = trio.Event()

    def events(self, events: list[Event]) -> None:
        assert not self.releases, "something was told after the release"
        self.events_so_far += events
        if any(isinstance(event, Started) for event in events):
            self.has_begun.set()

    def released(self, released: Waste) -> None:
        self.releases.append(released)
        self.is_released.set()

    @property
    def endings(self) -> list[Event]:
        return [event for event in self.events_so_far if isinstance(event, Finished | Failed)]


async def local(nursery: trio.Nursery) -> Engine:
    """A step lets go of Python's lock for a moment, as a model's does: else the event loop hardly has it."""
    backend = ScriptedBackend(
        ctx_tokens=CTX_TOKENS, embeds=embeds(dimensions=3), on_step=lambda _: time.sleep(STEP_S)
    )
    return LocalEngine(backend, EngineOptions(slots=2))


async def tales(nursery: trio.Nursery) -> Engine:
    return TaleEngine(ctx_tokens=CTX_TOKENS, pause_s=0.001, embedding=Embedding(3, 1000, "mean"))


async def upstream(nursery: trio.Nursery) -> Engine:
    server = ScriptedUpstream(slots=2, ctx_tokens=CTX_TOKENS)
    await nursery.start(server.serve)
    return await UpstreamEngine.opened([server.options()], FleetOptions())


async def shelved(nursery: trio.Nursery) -> Engine:
    inner = TaleEngine(ctx_tokens=CTX_TOKENS, pause_s=0.001, embedding=Embedding(3, 1000, "mean"))
    return ShelvedEngine("m", 1, inner.capacity, lambda is_wanted: Opened(inner, lambda: None), Shelf(1))


@pytest.fixture(params=[local, tales, upstream, shelved])
async def engine(request: pytest.FixtureRequest, nursery: trio.Nursery) -> Engine:
    make: Callable[[trio.Nursery], Awaitable[Engine]] = request.param
    return await make(nursery)


@asynccontextmanager
async def started(engine: Engine) -> AsyncIterator[None]:
    """Runs it, and finds it idle at the end."""
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await engine.load()
        yield
        engine.check_idle()
        nursery.cancel_scope.cancel()


async def submitted(engine: Engine, listener: Listener, max_tokens: int) -> Handle:
    prepared = await engine.prepare(asking("tell me", max_tokens=max_tokens), client="somebody")
    return engine.submit(prepared, 0, listener, max_tokens=prepared.max_tokens)


async def test_a_sequence_ends_in_one_event_and_then_gives_its_slot_back(engine: Engine) -> None:
    listener = Listener()
    async with started(engine):
        await submitted(engine, listener, 10)
        await listener.is_released.wait()
        await trio.testing.wait_all_tasks_blocked()
    [finished] = listener.endings
    assert isinstance(finished, Finished)
    assert listener.events_so_far[-1] is finished
    assert finished.usage.completion_tokens == 10
    assert len(listener.releases) == 1


@pytest.mark.parametrize("has_begun", [False, True])
async def test_a_cancelled_sequence_gives_its_slot_back_once(engine: Engine, has_begun: bool) -> None:
    listener = Listener()
    async with started(engine):
        handle = await submitted(engine, listener, 9_000)
        if has_begun:
            await listener.has_begun.wait()
        handle.cancel()
        handle.cancel()
        await listener.is_released.wait()
        handle.cancel()
        await trio.testing.wait_all_tasks_blocked()
    assert len(listener.releases) == 1
    assert not listener.endings


async def test_cancelling_one_sequence_does_not_disturb_another(engine: Engine) -> None:
    leaving, staying = Listener(), Listener()
    async with started(engine):
        handle = await submitted(engine, leaving, 9_000)
        await submitted(engine, staying, 20)
        await leaving.has_begun.wait()
        handle.cancel()
        await leaving.is_released.wait()
        await staying.is_released.wait()
    [finished] = staying.endings
    assert isinstance(finished, Finished)
    assert finished.usage.completion_tokens == 20


async def test_a_slot_that_came_back_can_be_used_again(engine: Engine) -> None:
    async with started(engine):
        for _ in range(5):
            first, second = Listener(), Listener()
            (await submitted(engine, first, 9_000)).cancel()
            await submitted(engine, second, 2)
            await first.is_released.wait()
            await second.is_released.wait()
            assert second.endings


async def test_a_sink_that_raises_harms_nobody_else(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Listener):
        def events(self, events: list[Event]) -> None:
            raise RuntimeError("I am a bug")

    broken, listener = Broken(), Listener()
    async with started(engine):
        await submitted(engine, broken, 3)
        await submitted(engine, listener, 3)
        await broken.is_released.wait()
        await listener.is_released.wait()
    assert listener.endings
    assert "I am a bug" in caplog.text


async def test_texts_are_embedded_each_once_and_then_the_slot_comes_back(engine: Engine) -> None:
    listener = Listener()
    texts = ("abc", "a b", "a b c d e")
    request = GenerationRequest(embed=Embed(tuple(map(RawPrompt, texts)), dimensions=2))
    async with started(engine):
        if engine.embedding is None:
            with pytest.raises(InvalidRequest):
                engine.check(request)
            return
        engine.check(request)
        prepared = await engine.prepare(request, client="somebody")
        engine.submit(prepared, 0, listener, max_tokens=0)
        await listener.is_released.wait()
        await trio.testing.wait_all_tasks_blocked()
    made = {event.index: event.vector for event in listener.events_so_far if isinstance(event, Embedded)}
    assert sorted(made) == [0, 1, 2]
    assert {len(vector) for vector in made.values()} == {2 * 4}, "two floats of 32 bits"
    [finished] = listener.endings
    assert listener.events_so_far[-1] is finished
    assert isinstance(finished, Finished)
    assert finished.usage == Usage(prepared.prompt_tokens, 0, 0)
    assert len(listener.releases) == 1


async def test_an_engine_that_does_not_run_takes_nothing(engine: Engine) -> None:
    listener = Listener()
    with pytest.raises(EngineFailed, match="not running"):
        await submitted(engine, listener, 3)
    async with started(engine):
        pass
    with pytest.raises(EngineFailed, match="not running"):
        await submitted(engine, listener, 3)
    assert not listener.releases


async def test_what_cannot_fit_is_refused_with_both_lengths(engine: Engine) -> None:
    async with started(engine):
        with pytest.raises(ContextExceeded) as too_much:
            await engine.prepare(asking("tell me", max_tokens=CTX_TOKENS), client="somebody")
    assert too_much.value.limit_tokens == engine.capacity.request_ctx_tokens == CTX_TOKENS
    assert 0 < too_much.value.prompt_tokens < CTX_TOKENS


async def test_a_prompt_that_is_too_long_is_refused_with_both_lengths(engine: Engine) -> None:
    too_long = await refused(engine, asking("word " * CTX_TOKENS))
    assert too_long.prompt_tokens >= CTX_TOKENS
    assert too_long.limit_tokens == CTX_TOKENS


async def refused(engine: Engine, request: GenerationRequest) -> ContextExceeded:
    """Before it has a slot or, where only an upstream can count, once it has."""
    listener = Listener()
    async with started(engine):
        try:
            prepared = await engine.prepare(request, client="somebody")
        except ContextExceeded as error:
            return error
        engine.submit(prepared, 0, listener, max_tokens=prepared.max_tokens)
        await listener.is_released.wait()
    [failed] = listener.endings
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, ContextExceeded)
    return failed.error


async def test_without_a_limit_the_context_is_it(engine: Engine) -> None:
    async with started(engine):
        prepared = await engine.prepare(asking("tell me"), client="somebody")
    assert prepared.prompt_tokens + prepared.max_tokens == CTX_TOKENS


async def test_cancelling_a_preparation_leaves_nothing_behind(engine: Engine) -> None:
    async with started(engine):
        with trio.CancelScope() as scope:
            scope.cancel()
            await engine.prepare(asking("tell me"), client="somebody")
        assert scope.cancelled_caught
