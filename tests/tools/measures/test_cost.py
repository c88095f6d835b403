from dataclasses import replace

import pytest
from tests.tools.measures.rounds import http

from tools.clients.apis import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from tools.measures.bed import Bed
from tools.measures.cost import ApiSide, api_goals, cost, goals, own_goals, own_of
from tools.measures.plan import QUICK
from tools.measures.throughput import summarize_rounds


def test_cost_must_not_grow_with_the_streams() -> None:
    rows = [
        summarize_rounds("corral", streams, [], [http(100, 1, loop_s=loop_s, engine_s=0.1)])
        for streams, loop_s in ((1, 0.4), (16, 0.1), (64, 0.2))
    ]
    assert [goal.is_met for goal in goals(rows)] == [True, True, False, True]


def test_a_tokens_own_cost_is_told_from_its_requests() -> None:
    """A request costs 2 ms of the loop and 1 of the engine, a token 50 and 20 us."""
    short = [http(6400, 1, loop_s=64 * 0.002 + 6400 * 50e-6, engine_s=64 * 0.001 + 6400 * 20e-6, streams=64)]
    long = [
        http(25600, 1, loop_s=64 * 0.002 + 25600 * 50e-6, engine_s=64 * 0.001 + 25600 * 20e-6, streams=64)
    ]
    own = own_of(short, long)
    assert own.loop_us == pytest.approx(50)
    assert own.engine_us == pytest.approx(20)
    assert own.request_loop_us == pytest.approx(2000)
    assert own.request_engine_us == pytest.approx(1000)
    assert [goal.is_met for goal in own_goals([own, replace(own, streams=256)])] == [True, False]
    assert own_of(short, short).token_us is None


def test_another_api_may_cost_half_as_much_again_as_chat_and_slow_nobody_down() -> None:
    sides = [
        ApiSide("chat", (CHAT,), [http(100, 1, loop_s=0.1), http(100, 1, loop_s=0.2)]),
        ApiSide("messages", (MESSAGES,), [http(100, 1, loop_s=0.14), http(100, 1, loop_s=0.28)]),
        ApiSide("responses", (RESPONSES,), [http(100, 1, loop_s=0.16), http(100, 1, loop_s=0.32)]),
        ApiSide("mixed", (CHAT, MESSAGES), [http(100, 1.1, loop_s=0.1), http(100, 1.2, loop_s=0.1)]),
    ]
    assert [(round(goal.measured or 0, 2), goal.is_met) for goal in api_goals(sides)] == [
        (1.4, True),
        (1.6, False),
        (0.87, False),
    ]


async def test_every_api_can_be_measured() -> None:
    sheet = await cost(Bed(), QUICK)
    assert sheet.broken == []
    assert [row.label for row in sheet.rows] == [
        "corral",
        "corral",
        *(api.name for api in (CHAT, MESSAGES, RESPONSES, COMPLETIONS)),
        "mixed",
    ]
    assert all(row.output_tokens == QUICK.output_tokens for row in sheet.rows)
    assert all(goal.measured is not None for goal in sheet.goals)
