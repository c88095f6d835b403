"""How long an upstream goes on for those that have left: looked at, where it shows its slots.

Nobody else can tell, so this is the one place that asks again and again. A sequence that was cancelled keeps
its slot here until the upstream computes no more than what still runs: so the next request is not put in line
behind the work for nobody. It takes at most MOST_S; past that the slot is given back all the same.

It counts, since upstreams do not name: with `asked` sequences that it was asked for and that still run, what
it computes beyond those is for the gone. One that others use too cannot be counted like that. That is noticed
when what is beyond does not become less in LOOKS looks, and by a look while nothing of ours runs there; see
`Replica`.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import trio

FIRST_LOOK_S: Final = 0.02
LAST_LOOK_S: Final = 0.25
MOST_S: Final = 60.0
LOOKS: Final = 20
"""About four seconds of an upstream that answers at once. One that is in a long step does not answer."""


class Residue:
    """Of one replica. `busy` asks how many it computes, None if it does not say just now; it may not raise.

    Where it never `tells`, nobody is waited for. `is_shared` is called when others seem to use it too.
    """

    def __init__(
        self,
        busy: Callable[[], Awaitable[int | None]],
        tells: Callable[[], bool],
        asked: Callable[[], int],
        is_shared: Callable[[], None],
    ) -> None:
        self.total_s = 0.0
        """Seconds of slots that were computed for nobody, as far as that was seen."""
        self._busy = busy
        self._tells = tells
        self._asked = asked
        self._is_shared = is_shared
        self._gone: deque[tuple[float, trio.Event]] = deque()
        self._joined = trio.lowlevel.ParkingLot()
        self._look = trio.CancelScope()
        self._least = 0
        """It computed beyond what still runs, at least so many since that was last found to be less."""
        self._looks = 0
        """How often it was looked at since then."""

    @property
    def waiting(self) -> int:
        """How many have left for which it may compute yet."""
        return len(self._gone)

    async def gone(self) -> float:
        """One has left: wait until nothing is computed for it; the seconds that took. A checkpoint."""
        if not self._tells():
            await trio.lowlevel.checkpoint()
            return 0.0
        left_s, over = trio.current_time(), trio.Event()
        self._gone.append((left_s, over))
        self._least += 1
        self._joined.unpark_all()
        await over.wait()
        return trio.current_time() - left_s

    def give_up(self) -> None:
        """It will not say any more: nobody is waited for. Synchronous; harmless where nobody is."""
        self._look.cancel()

    async def run(self) -> None:
        """Look for as long as somebody is gone, until cancelled."""
        pause_s = FIRST_LOOK_S
        while True:
            if not self._gone:
                pause_s, self._least, self._looks = FIRST_LOOK_S, 0, 0
                await self._joined.park()
            asked = self._asked()  # before it is asked: what begins meanwhile is taken for gone
            busy = None
            if self._tells():
                with trio.CancelScope(deadline=self._gone[0][0] + MOST_S) as self._look:
                    busy = await self._busy()
            if busy is not None:
                self._note(max(0, busy - asked))
            now_s = trio.current_time()
            still = len(self._gone) if busy is None else max(0, busy - asked)
            if not self._tells():
                still = 0
            while self._gone and (len(self._gone) > still or now_s - self._gone[0][0] >= MOST_S):
                left_s, over = self._gone.popleft()
                self.total_s += now_s - left_s
                over.set()
            if self._gone:
                with trio.move_on_after(pause_s) as self._look:
                    await trio.sleep_forever()
                pause_s = min(LAST_LOOK_S, 2 * pause_s)

    def _note(self, still: int) -> None:
        """So much is computed beyond what still runs."""
        if still < self._least:
            self._least, self._looks = still, 0
            return
        self._looks += 1
        if self._looks >= LOOKS:
            self._is_shared()
