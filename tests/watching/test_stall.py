"""The stall detector on the virtual clock, with an engine that is one number."""

import trio
import trio.testing

from corral.watching.stall import StallDetector


class FakeEngine:
    def __init__(self) -> None:
        self.began_s: float | None = None

    def step_age_s(self) -> float | None:
        return None if self.began_s is None else trio.current_time() - self.began_s


async def test_a_stall_and_its_end_are_told_once_each(autojump_clock: trio.abc.Clock) -> None:
    engine = FakeEngine()
    detector = StallDetector(engine.step_age_s, 10.0)
    told: list[tuple[float, bool]] = []
    began_s = trio.current_time()
    detector.on_change.append(lambda: told.append((trio.current_time() - began_s, detector.is_stalled)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(detector.run)
        for _ in range(100):  # steps of half a second are no stall, however many
            engine.began_s = trio.current_time()
            await trio.sleep(0.5)
        engine.began_s = trio.current_time()
        await trio.sleep(25)
        assert [(round(at, 3), stalled) for at, stalled in told] == [(60.0, True)]
        engine.began_s = None
        await trio.sleep(2)
        assert [stalled for _, stalled in told] == [True, False]
        nursery.cancel_scope.cancel()
