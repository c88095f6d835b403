from dataclasses import replace
from random import Random

import pytest

from tools.clients.prompts import PromptSource
from tools.measures.bed import Bed
from tools.measures.load import goals, has_slots, load, load_row, pace_of
from tools.measures.loads import LOADS, RATE, Looked, Seen
from tools.measures.plan import QUICK
from tools.servers.server import SCRIPTED_COMMAND, serve

LOOKED = Looked(RATE, {"balanced": 0.95}, is_rate=True)


def seen(*rates: float | None) -> list[Seen]:
    return [Seen({RATE: rate}) for rate in rates]


def test_a_ratio_is_taken_within_a_round() -> None:
    # the machine was twice as slow in the second round: the ratio must not notice
    row = load_row("retrieval", LOOKED, seen(40, 20, 44), seen(50, 25, 40), limit=0.95)
    assert (row.own, row.peer) == (40, 40)
    assert row.ratio == 0.8
    assert [str(goal)[:6] for goal in goals([row], has_peer=True)] == ["MISSED"]


def test_a_round_that_showed_nothing_is_no_ratio() -> None:
    row = load_row("retrieval", LOOKED, seen(None, 30), seen(10, 15), limit=0.95)
    assert (row.ratios, row.own) == ([2.0], 30)


def test_without_a_peer_only_the_servers_own_figures_have_goals() -> None:
    own = Looked(RATE, {}, by_peer=False)
    rows = [load_row("a", each, seen(3, 1), [], limit=2.0) for each in (LOOKED, own)]
    assert [(goal.measured, goal.is_met) for goal in goals(rows, has_peer=False)] == [(2.0, True)]


def test_the_worst_of_several_rounds_is_the_largest() -> None:
    row = load_row("behind", Looked(RATE, {}, is_worst=True), seen(3, 9, 1), [], limit=None)
    assert row.own == 9


@pytest.mark.parametrize(
    ("flags", "pace"),
    [
        ((), "balanced"),
        (("--pace", "throughput"), "throughput"),
        (("--step-budget-ms", "9", "--pace=smooth"), "smooth"),
    ],
)
def test_the_goals_are_those_of_the_pace_that_the_server_has(flags: tuple[str, ...], pace: str) -> None:
    assert pace_of(flags) == pace


async def test_every_load_can_be_measured_that_needs_no_real_model() -> None:
    prompts = PromptSource()
    loads = {
        name: each for name, each in LOADS.items() if name != "beside"
    }  # bytes are tokens here: too long
    async with serve(f"{SCRIPTED_COMMAND} --step-ms 2", ["--slots", "4"]) as server:
        for name, each in loads.items():
            seen = await each.draw(prompts, Random(0), QUICK)(server.target)
            assert seen.broken == [], name
            assert all(seen.figures[looked.name] is not None for looked in each.looked), name


async def test_a_server_and_a_peer_take_turns() -> None:
    command = f"{SCRIPTED_COMMAND} --slots {{slots}} --ctx-tokens {{ctx_tokens}}"
    bed = Bed(SCRIPTED_COMMAND, peer_command=command)
    sheet = await load(bed, replace(QUICK, loads=("short-8",)))
    assert sheet.broken == []
    [rounds] = sheet.rows
    assert len(rounds.ours) == len(rounds.peers) == QUICK.repeats
    [goal] = sheet.goals
    assert goal.measured is not None
    assert 0 < goal.measured < 100


async def test_a_peer_with_too_few_slots_is_not_measured_beside_five_streams() -> None:
    async with serve(SCRIPTED_COMMAND, ["--slots", "4"]) as four:
        assert await has_slots(four.target, 4)
        assert not await has_slots(four.target, 5)
