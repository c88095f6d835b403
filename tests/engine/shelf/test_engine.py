"""An engine whose model comes and goes, by itself: attempts, who waits for them, and what is left."""

from collections.abc import Callable

import pytest
import trio
import trio.testing
from tests.engine.tales import TaleEngine, asking

from corral.engine.shelf.engine import Opened, ShelvedEngine
from corral.engine.shelf.shelf import Shelf
from corral.errors import EngineFailed, Overloaded, StartupError


class Library:
    """Opens tale engines, and says what it opened and closed."""

    def __init__(self, *, fails: int = 0) -> None:
        self.engines: list[TaleEngine] = []
        self.closed = 0
        self._fails = fails

    def opens(self, is_wanted: Callable[[], bool]) -> Opened:
        if self._fails:
            self._fails -= 1
            raise StartupError("a page is missing")
        self.engines.append(TaleEngine())
        return Opened(self.engines[-1], self._close)

    def _close(self) -> None:
        self.closed += 1


def shelved(library: Library, shelf: Shelf, name: str = "m", size_bytes: int = 6) -> ShelvedEngine:
    return ShelvedEngine(name, size_bytes, TaleEngine().capacity, library.opens, shelf)


async def test_nothing_is_loaded_before_it_is_asked_for_and_all_is_freed_at_the_end(
    nursery: trio.Nursery,
) -> None:
    library = Library()
    async with trio.open_nursery() as running:
        engine = shelved(library, Shelf(10))
        await running.start(engine.run)
        await trio.testing.wait_all_tasks_blocked()
        assert library.engines == []
        await engine.load()
        await engine.load()
        assert len(library.engines) == 1
        assert engine.capacity is library.engines[0].capacity
        running.cancel_scope.cancel()
    assert library.closed == 1
    assert engine.residence.state == "not loaded"


async def test_who_stops_waiting_ends_nothing_but_the_wait(nursery: trio.Nursery) -> None:
    library = Library()
    engine = shelved(library, Shelf(10))
    await nursery.start(engine.run)
    with trio.move_on_after(0):
        await engine.load()
    await engine.load()
    assert len(library.engines) == 1


async def test_each_attempt_fails_all_who_wait_and_only_them(nursery: trio.Nursery) -> None:
    library = Library(fails=1)
    engine = shelved(library, Shelf(10))
    await nursery.start(engine.run)
    failed: list[EngineFailed] = []

    async def wait() -> None:
        try:
            await engine.load()
        except EngineFailed as error:
            failed.append(error)

    async with trio.open_nursery() as waiting:
        for _ in range(3):
            waiting.start_soon(wait)
    assert len(failed) == 3
    assert (engine.residence.state, engine.residence.reason) == ("failed", "a page is missing")
    await engine.load()
    assert engine.residence.state == "loaded"


async def test_an_engine_that_has_failed_is_loaded_anew_once_nobody_uses_it(nursery: trio.Nursery) -> None:
    library = Library()
    engine = shelved(library, Shelf(10))
    await nursery.start(engine.run)
    await engine.load()
    library.engines[0].failure = EngineFailed("it is broken")
    engine.is_in_use = lambda: True
    engine.check(asking("hi"))
    assert engine.failure is not None
    engine.is_in_use = lambda: False
    engine.check(asking("hi"))
    assert engine.failure is None
    await engine.load()
    assert (len(library.engines), library.closed) == (2, 1)


async def test_an_engine_that_does_not_run_loads_nothing() -> None:
    engine = shelved(Library(), Shelf(10))
    with pytest.raises(EngineFailed, match="not running"):
        await engine.load()
    assert engine.residence.state == "not loaded"


async def test_one_in_use_keeps_its_place_and_one_that_is_idle_gives_it_up(nursery: trio.Nursery) -> None:
    shelf, first, second = Shelf(10), Library(), Library()
    one, other = shelved(first, shelf, "one"), shelved(second, shelf, "other")
    for engine in (one, other):
        await nursery.start(engine.run)
    await one.load()
    one.is_in_use = lambda: True
    with pytest.raises(Overloaded, match="'one'"):
        other.check(asking("hi"))
    with pytest.raises(Overloaded, match="'one'"):
        await other.load()
    assert shelf.room.claimed == ("one",)
    one.is_in_use = lambda: False
    other.check(asking("hi"))
    assert shelf.room.claimed == ("one",), "a check moves nobody"
    await other.load()
    assert first.closed == 1, "before the other was loaded"
    assert one.residence.state == "not loaded"


def test_what_never_fits_is_refused_before_anything_else() -> None:
    with pytest.raises(ValueError, match="'m' needs"):
        shelved(Library(), Shelf(5))
