"""An Engine (see engine.contract) whose model is in memory only while it is wanted, or its place is not.

Loading is a task of the engine's own, in which the engine that was loaded runs as long as its model is there.
Who waits for it is nobody's owner: it goes on when they leave, and what has been loaded stays for the next.
An attempt that fails fails all who wait for it, once. The next that comes makes the next attempt.
"""

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import outcome
import trio

from corral.engine.contract import (
    Capacity,
    Embedding,
    Engine,
    Handle,
    Holdings,
    Prepared,
    ReplicaState,
    Residence,
    Sink,
    Texts,
)
from corral.engine.shelf.shelf import Shelf
from corral.errors import CorralError, EngineFailed, StartupError
from corral.request import GenerationRequest

logger = logging.getLogger("corral.shelf")


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine whose model is loaded; `close` frees it once the engine does not run any more, and blocks."""

    engine: Engine
    close: Callable[[], None]


Open = Callable[[Callable[[], bool]], Opened]
"""Loads a model. Blocks; may ask what it is given whether that is still wanted, and raise anything once it is
not. Raises StartupError."""


@dataclass(slots=True, eq=False)
class _Attempt:
    """One time that the model is loaded, from the first who wants it until it is gone again."""

    has_ended: trio.Event = field(default_factory=trio.Event)
    """It is there, or has failed."""
    error: CorralError | None = None
    opened: Opened | None = None
    is_wanted: bool = True
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class ShelvedEngine:
    """One model of a shelf."""

    def __init__(self, name: str, size_bytes: int, expected: Capacity, opens: Open, shelf: Shelf) -> None:
        """`expected` is what it takes once it is loaded. Raises ValueError if it never fits the shelf."""
        self.name: Final = name
        self.size_bytes: Final = size_bytes
        self.is_in_use: Callable[[], bool] = lambda: False
        """Whether it may not leave. To be set by whoever gives it requests."""
        self.on_capacity: list[Callable[[], None]] = []
        self._expected = expected
        self._open = opens
        self._shelf = shelf
        self._inner: Engine | None = None
        self._attempt: _Attempt | None = None
        self._residence = Residence("not loaded", size_bytes)
        self._nursery: trio.Nursery | None = None
        shelf.add(self)

    # What is known

    @property
    def residence(self) -> Residence:
        return self._residence

    @property
    def is_idle(self) -> bool:
        """Whether it is loaded, and nobody uses it."""
        return self._inner is not None and not self.is_in_use()

    @property
    def capacity(self) -> Capacity:
        return self._expected if self._inner is None else self._inner.capacity

    @property
    def texts(self) -> Texts | None:
        return None if self._inner is None else self._inner.texts

    @property
    def embedding(self) -> Embedding | None:
        return None if self._inner is None else self._inner.embedding

    @property
    def holdings(self) -> Holdings | None:
        return None if self._inner is None else self._inner.holdings

    @property
    def failure(self) -> EngineFailed | None:
        """Of an engine that runs; a model that could not be loaded is tried again."""
        return None if self._inner is None else self._inner.failure

    @property
    def chat_template(self) -> str | None:
        return None if self._inner is None else self._inner.chat_template

    @property
    def learned(self) -> Mapping[str, Any] | None:
        return None if self._inner is None else self._inner.learned

    @property
    def replicas(self) -> Sequence[ReplicaState]:
        return ()

    def set_draining(self, replica: str, is_draining: bool) -> bool:
        """There are no replicas."""
        return False

    def step_age_s(self) -> float | None:
        return None if self._inner is None else self._inner.step_age_s()

    # What it is asked for

    def check(self, request: GenerationRequest) -> None:
        """As the engine does that is loaded; while none is, only whether it could be.

        One that has failed for good makes way for the next attempt, when nobody uses it any more.
        """
        self._shelf.room.used(self.name)
        if self.failure is not None and self.is_idle:
            self._shelf.failed(self)
            self.leave()
        if self._inner is not None:
            self._inner.check(request)
        elif self._attempt is None:
            self._shelf.check(self)

    async def load(self) -> None:
        """Wait until it is loaded, and begin with that if nobody has; a checkpoint, cancel-safe.

        Raises Overloaded if there is no room, EngineFailed if it cannot be loaded.
        """
        await trio.lowlevel.checkpoint()
        while self._inner is None:
            attempt = self._attempt or self._begun()
            await attempt.has_ended.wait()
            if attempt.error is not None:
                raise attempt.error

    async def prepare(self, request: GenerationRequest, *, client: str) -> Prepared:
        return await self._there.prepare(request, client=client)

    def cached_tokens(self, prepared: Prepared) -> int:
        return 0 if self._inner is None else self._inner.cached_tokens(prepared)

    def submit(self, prepared: Prepared, choice: int, sink: Sink, *, max_tokens: int) -> Handle:
        return self._there.submit(prepared, choice, sink, max_tokens=max_tokens)

    def check_idle(self) -> None:
        if self._inner is not None:
            self._inner.check_idle()

    @property
    def _there(self) -> Engine:
        if self._inner is None:
            raise EngineFailed("the engine is not running: its model is not loaded")
        return self._inner

    # Coming and going

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own what loads it and what is loaded, until cancelled. Nothing is loaded by itself."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def leave(self) -> None:
        """Free the memory; what the shelf does, while it is idle."""
        assert self._attempt is not None
        logger.info("%s leaves the memory", self.name)
        self._attempt.scope.cancel()
        self._inner = self._attempt = None
        self._residence = Residence("leaving", self.size_bytes)

    def _begun(self) -> _Attempt:
        if self._nursery is None:
            raise EngineFailed("the engine is not running")
        self._shelf.claim(self)
        self._attempt = attempt = _Attempt()
        self._residence = Residence("loading", self.size_bytes)
        self._nursery.start_soon(self._live, attempt)
        return attempt

    async def _live(self, attempt: _Attempt) -> None:
        """One attempt, and what is loaded by it until that leaves."""
        try:
            with attempt.scope:
                await self._shelf.come(self)
                async with trio.open_nursery() as nursery, self._shelf.turn:
                    await self._loaded(attempt, nursery)
        finally:
            if self._attempt is attempt:  # the server ends
                self._ends(attempt, Residence("not loaded", self.size_bytes), EngineFailed("the server ends"))
            with trio.CancelScope(shield=True):
                if attempt.opened is not None:
                    await trio.to_thread.run_sync(attempt.opened.close)
                    attempt.opened = None
                    # An engine is full of cycles, and its vocabulary and formats are tens of megabytes.
                    await trio.to_thread.run_sync(gc.collect)
            self._shelf.gone(self)
            if self._residence.state == "leaving" and self._attempt is None:
                self._residence = Residence("not loaded", self.size_bytes)

    async def _loaded(self, attempt: _Attempt, nursery: trio.Nursery) -> None:
        """Load it, and run what is loaded in `nursery`; or say why not, to all who wait."""
        began_s = trio.current_time()
        try:
            await self._open_in_thread(attempt)
            assert attempt.opened is not None
            await nursery.start(attempt.opened.engine.run)
        except (StartupError, CorralError) as error:
            logger.error("%s cannot be loaded: %s", self.name, error)
            self._has_failed(attempt, str(error))
        except Exception as error:
            logger.exception("%s cannot be loaded", self.name)
            self._has_failed(attempt, type(error).__name__)
        else:
            logger.info("%s is loaded, in %.1f s", self.name, trio.current_time() - began_s)
            self._inner = attempt.opened.engine
            self._residence = Residence("loaded", self.size_bytes)
            attempt.has_ended.set()
            for callback in self.on_capacity:
                callback()

    async def _open_in_thread(self, attempt: _Attempt) -> None:
        """Have a thread load it. When this is cancelled it is told that nobody wants it, and waited for."""

        def work() -> None:
            attempt.opened = self._open(lambda: attempt.is_wanted)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_unwanted_when_cancelled, attempt)
            opened = await trio.to_thread.run_sync(outcome.capture, work)
            nursery.cancel_scope.cancel()
        opened.unwrap()

    def _has_failed(self, attempt: _Attempt, reason: str) -> None:
        error = EngineFailed(f"the model {self.name!r} could not be loaded; the server's log says why")
        self._ends(attempt, Residence("failed", self.size_bytes, reason), error)

    def _ends(self, attempt: _Attempt, residence: Residence, error: CorralError) -> None:
        """It is not loaded, or not any more; its memory is free at `gone`."""
        self._inner = self._attempt = None
        self._residence = residence
        self._shelf.failed(self)
        attempt.error = error
        attempt.has_ended.set()


async def _unwanted_when_cancelled(attempt: _Attempt) -> None:
    try:
        await trio.sleep_forever()
    finally:
        attempt.is_wanted = False
