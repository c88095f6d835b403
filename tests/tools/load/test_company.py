import ipaddress
import random
from typing import Any

import pytest
import trio

from tools.clients.sse import Answer
from tools.clients.target import Target
from tools.load.company import Company, address
from tools.load.hostility import offend


def company(**answers: Answer) -> Company:
    seen = Company(Target("127.0.0.1", 9), ["abc"], 3, random.Random(1))
    for kind, answer in answers.items():
        seen.judge(kind, 0, answer)
    return seen


def answered(text: str, ending: str = "done", **fields: Any) -> Answer:
    return Answer(pieces=[text], ending=ending, finish_reason="length", status=200, **fields)


@pytest.mark.parametrize(
    ("answer", "is_wrong"),
    [
        (answered("abc"), False),
        (answered("abd"), True),
        (answered("ab", "cut"), True),
        (answered("abc", violations=["id changed"]), True),
        (Answer(ending="refused", status=429), False),
        (Answer(ending="refused", status=500), True),
    ],
)
def test_who_stays_gets_the_reference_answer(answer: Answer, is_wrong: bool) -> None:
    assert bool(company(stay=answer).wrong) is is_wrong


def test_who_leaves_is_not_judged_by_text() -> None:
    assert company(leave=answered("a", "left"), stall=answered("a", "evicted")).wrong == []


@pytest.mark.parametrize(
    ("answer", "is_wrong"),
    [
        (answered("ab", "failed"), False),
        (answered("ax", "failed"), True),
        (answered("", "failed"), True),
        (answered("ab", "cut"), True),
        (Answer(ending="refused", status=503), True),
    ],
)
def test_where_upstreams_die_a_stream_may_break_off_if_it_says_so(answer: Answer, is_wrong: bool) -> None:
    seen = Company(Target("127.0.0.1", 9), ["abc"], 3, random.Random(1), upstreams_die=True)
    seen.judge("stay", 0, answer)
    assert (bool(seen.wrong), seen.broken_off) == (is_wrong, 0 if is_wrong else 1)


def test_a_hostile_client_may_be_told_anything_but_that_it_found_a_bug() -> None:
    seen = company()
    for ending in ("body: 400", "flood: no answer", "head: 500"):
        seen.judge_hostile(ending)
    assert seen.wrong == ["hostile, head: 500"]
    assert seen.outcomes.total() == 3


def test_every_client_comes_from_an_address_of_its_own() -> None:
    numbers = [1, 255, 256, 65_535, 65_536, 2**24 - 600]
    assert len({address(number) for number in numbers}) == len(numbers)
    assert all(ipaddress.ip_address(address(number)).is_loopback for number in numbers)
    assert address(1) == "127.0.1.1"


async def test_a_hostile_client_is_gone_in_time_whatever_the_server_does() -> None:
    async def deaf(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async def check(port: int, seed: int) -> None:
        ending = await offend(Target("127.0.0.1", port), random.Random(seed), limit_s=0.05)
        assert ending.partition(": ")[2] == "no answer"

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, deaf, [listener])
        with trio.fail_after(20):
            async with trio.open_nursery() as clients:
                for seed in range(20):
                    clients.start_soon(check, listener.socket.getsockname()[1], seed)
        nursery.cancel_scope.cancel()
