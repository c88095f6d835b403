"""How long an upstream goes on for those that have left: looked at, where it shows its slots.

Nobody else can tell, so this is the one place that asks again and again. A sequence that was cancelled keeps
its slot here until the upstream computes no more than what still runs: so the next request is not put in line
behind the work for nobody. It takes at most MOST_S; past that the slot is given back all the same.

It counts, since upstreams do not name: with `begun` sequences of which something was heard, what they compute
beyond those is for the gone. One that others use too cannot be counted like that; see `Replica`.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import trio

FIRST_LOOK_S: Final = 0.02
LAST_LOOK_S: Final = 0.25
MOST_S: Final = 60.0


class Residue:
    """Of one replica. `busy` asks how many it computes, None if it does not say just now; it may not raise.

    Where it never `tells`, nobody is waited for.
    """

    def __init__(
        self,
        busy: Callable[[], Awaitable[int | None]],
        tells: Callable[[], bool],
        begun: Callable[[], int],
    ) -> None:
        self.total_s = 0.0
        """Seconds of slots that were computed for nobody, as far as that was seen."""
        self._busy = busy
        self._tells = tells
        self._begun = begun
        self._gone: deque[tuple[float, trio.Event]] = deque()
        self._joined = trio.lowlevel.ParkingLot()

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
        self._joined.unpark_all()
        await over.wait()
        return trio.current_time() - left_s

    async def run(self) -> None:
        """Look for as long as somebody is gone, until cancelled."""
        pause_s = FIRST_LOOK_S
        while True:
            if not self._gone:
                pause_s = FIRST_LOOK_S
                await self._joined.park()
            begun = self._begun()  # before it is asked: what begins meanwhile is taken for gone
            busy = None
            with trio.move_on_at(self._gone[0][0] + MOST_S):
                busy = await self._busy()
            now_s = trio.current_time()
            unsaid = len(self._gone) if self._tells() else 0
            still = unsaid if busy is None else max(0, busy - begun)
            while self._gone and (len(self._gone) > still or now_s - self._gone[0][0] >= MOST_S):
                left_s, over = self._gone.popleft()
                self.total_s += now_s - left_s
                over.set()
            if self._gone:
                await trio.sleep(pause_s)
                pause_s = min(LAST_LOOK_S, 2 * pause_s)
