import threading

import trio
import trio.testing

from corral.engine.local.crossing import open_crossing


async def test_what_threads_send_is_taken_on_the_loop_in_the_order_of_each() -> None:
    taken: list[tuple[int, int]] = []
    is_all = trio.Event()
    loop = threading.get_ident()

    def take(item: tuple[int, int]) -> None:
        assert threading.get_ident() == loop
        taken.append(item)
        if len(taken) == 30_000:
            is_all.set()

    def send(thread: int) -> None:
        for number in range(10_000):
            crossing.send_nowait((thread, number))

    with open_crossing(take) as crossing:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crossing.run)
            async with trio.open_nursery() as senders:
                for thread in range(3):
                    senders.start_soon(trio.to_thread.run_sync, send, thread)
            with trio.fail_after(60):
                await is_all.wait()
            nursery.cancel_scope.cancel()
    for thread in range(3):
        assert [number for sender, number in taken if sender == thread] == list(range(10_000))


async def test_one_item_alone_wakes_the_loop() -> None:
    has_come = trio.Event()

    def take(_: str) -> None:
        has_come.set()

    with open_crossing(take) as crossing:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crossing.run)
            for _ in range(100):
                await trio.testing.wait_all_tasks_blocked()
                has_come = trio.Event()
                await trio.to_thread.run_sync(crossing.send_nowait, "it")
                with trio.fail_after(60):
                    await has_come.wait()
            nursery.cancel_scope.cancel()


async def test_what_comes_when_nobody_runs_is_drained_and_what_is_sent_meanwhile_too() -> None:
    taken: list[int] = []

    def take(item: int) -> None:
        taken.append(item)
        if item < 3:
            crossing.send_nowait(item + 1)

    with open_crossing(take) as crossing:
        crossing.send_nowait(0)
        assert taken == []
        crossing.drain()
        assert taken == [0, 1, 2, 3]
