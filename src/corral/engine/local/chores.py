"""Work for a request that takes a thread and may take a while, such as compiling its grammar.

    chores = Chores(threads=2)
    nursery.start_soon(chores.run)
    constraint = await chores.do(work, client=key)

Clients take turns, and each has one thread at most, so whoever sends much that takes long waits for it alone.
"""

from collections.abc import Callable
from typing import TypeVar

import trio

from corral.engine.local.prompts.turns import Turns
from corral.errors import EngineFailed

Result = TypeVar("Result")


class _Chore:
    def __init__(self, work: Callable[[], None], client: str) -> None:
        self.work = work
        self.client = client
        self.is_over = trio.Event()
        self.error: Exception | None = EngineFailed("the engine is not running")
        """Why it is over; None if it is done."""


class Chores:
    """Threads that are shared by the clients. Belongs to the event loop."""

    def __init__(self, threads: int) -> None:
        self._threads = trio.CapacityLimiter(threads)
        self._turns: Turns[_Chore] = Turns()
        self._busy: set[str] = set()
        self._idle = trio.lowlevel.ParkingLot()
        self._is_running = False

    async def run(self) -> None:
        """Work until cancelled; what is in a thread by then is waited for, what waits for one fails."""
        self._is_running = True
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(int(self._threads.total_tokens)):
                    nursery.start_soon(self._work)
        finally:
            self._is_running = False
            while (chore := self._turns.take()) is not None:
                chore.is_over.set()

    async def do(self, work: Callable[[], Result], *, client: str) -> Result:
        """What `work` returns or raises. Cancelling leaves at once, and what has not begun never does.

        Raises EngineFailed where `run` does not run, or ends before there was a thread.
        """
        results: list[Result] = []
        chore = _Chore(lambda: results.append(work()), client)
        if self._is_running:
            self._turns.add(client, chore)
            self._idle.unpark()
            try:
                await chore.is_over.wait()
            finally:
                self._turns.remove(client, chore)
        if chore.error is not None:
            raise chore.error
        return results[0]

    async def _work(self) -> None:
        while True:
            chore = self._turns.take(lambda chore: chore.client not in self._busy)
            if chore is None:
                await self._idle.park()
                continue
            self._busy.add(chore.client)
            try:
                await trio.to_thread.run_sync(chore.work, limiter=self._threads)
                chore.error = None
            except Exception as error:
                chore.error = error
            finally:
                chore.is_over.set()
                self._busy.remove(chore.client)
                self._idle.unpark()  # this client's next, if another thread has nothing to do
