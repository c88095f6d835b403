"""Work in threads, for clients that take turns and may leave."""

from functools import partial
from threading import Event

import pytest
import trio
import trio.testing

from corral.engine.local.chores import Chores
from corral.errors import EngineFailed


async def test_who_leaves_before_its_work_has_begun_takes_no_thread() -> None:
    done: list[str] = []
    is_free, chores = Event(), Chores(threads=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chores.run)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as clients:
            clients.start_soon(lambda: chores.do(is_free.wait, client="first"))
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as leaving:
                for _ in range(20):
                    leaving.start_soon(lambda: chores.do(lambda: done.append("gone"), client="gone"))
                await trio.testing.wait_all_tasks_blocked()
                leaving.cancel_scope.cancel()
            clients.start_soon(lambda: chores.do(lambda: done.append("stayed"), client="stays"))
            await trio.testing.wait_all_tasks_blocked()
            is_free.set()
        nursery.cancel_scope.cancel()
    assert done == ["stayed"]


async def test_a_client_has_one_thread_and_leaves_the_others_to_others() -> None:
    is_free, chores = Event(), Chores(threads=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chores.run)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as clients:
            for _ in range(3):
                clients.start_soon(lambda: chores.do(is_free.wait, client="slow"))
            await trio.testing.wait_all_tasks_blocked()
            assert await chores.do(lambda: "mine", client="other") == "mine"
            is_free.set()
        nursery.cancel_scope.cancel()


async def test_clients_take_turns() -> None:
    done: list[str] = []
    is_free, chores = Event(), Chores(threads=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chores.run)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as clients:
            clients.start_soon(lambda: chores.do(is_free.wait, client="first"))
            for client in ("a", "a", "b"):
                await trio.testing.wait_all_tasks_blocked()
                clients.start_soon(partial(chores.do, partial(done.append, client), client=client))
            await trio.testing.wait_all_tasks_blocked()
            is_free.set()
        nursery.cancel_scope.cancel()
    assert done == ["a", "b", "a"]


async def test_what_work_raises_is_its_own_and_the_next_is_done() -> None:
    chores = Chores(threads=1)

    def fail() -> None:
        raise KeyError("mine")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(chores.run)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(KeyError, match="mine"):
            await chores.do(fail, client="a")
        assert await chores.do(lambda: 1, client="a") == 1
        nursery.cancel_scope.cancel()


async def test_what_waits_at_the_end_fails_and_so_does_what_comes_later() -> None:
    is_free, chores = Event(), Chores(threads=1)
    failed: list[str] = []

    async def work() -> None:
        with pytest.raises(EngineFailed):
            await chores.do(lambda: None, client="a")
        failed.append("a")

    async with trio.open_nursery() as clients, trio.open_nursery() as nursery:
        nursery.start_soon(chores.run)
        await trio.testing.wait_all_tasks_blocked()
        clients.start_soon(lambda: chores.do(is_free.wait, client="first"))
        await trio.testing.wait_all_tasks_blocked()
        clients.start_soon(work)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        is_free.set()
    await work()
    assert failed == ["a", "a"]
