"""Deadlines on the virtual clock."""

import trio
import trio.testing

from corral.serving.deadlines import Deadlines


async def test_what_is_still_there_is_ended_once_in_time_and_the_rest_left_alone(
    autojump_clock: trio.abc.Clock,
) -> None:
    passed: list[tuple[float, str]] = []
    began_s = trio.current_time()
    deadlines: Deadlines[str] = Deadlines(
        10, lambda item: passed.append((trio.current_time() - began_s, item))
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        await trio.sleep(1)
        deadlines.add("early")
        deadlines.add("done")
        await trio.sleep(5)
        deadlines.add("late")
        deadlines.remove("done")
        await trio.sleep(100)
        deadlines.remove("late")
        nursery.cancel_scope.cancel()
    assert passed == [(11, "early"), (16, "late")]
