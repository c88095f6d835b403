import shlex
import sys
from pathlib import Path

import trio

from tools.clients.connection import get_json
from tools.clients.target import Target
from tools.load.upstreams import upstreams

WAITING = shlex.join([sys.executable, str(Path(__file__).parents[3] / "tools" / "servers" / "waiting.py")])


def another_came(before: list[Target], now: list[Target]) -> bool:
    return len(now) == 2 and any(all(target is not old for old in before) for target in now)


async def test_one_that_is_killed_comes_back_where_it_was() -> None:
    with trio.fail_after(60):
        async with upstreams(f"{WAITING} --port {{port}}", [], 2, down_s=0.0) as behind:
            before = behind.targets
            async with trio.open_nursery() as nursery:
                nursery.start_soon(behind.kill, 0.01)
                while not behind.killed:  # noqa: ASYNC110 - another process
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()
            while not another_came(before, behind.targets):  # noqa: ASYNC110 - as above
                await trio.sleep(0.001)
            assert {target.port for target in behind.targets} == {target.port for target in before}
            for target in behind.targets:
                assert (await get_json(target, "/health"))[0] == 200
