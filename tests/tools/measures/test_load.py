from dataclasses import replace
from random import Random

import trio
from tests.tools.fakeserver import DONE, HEAD, LAST, FakeServer, Script, chunked, delta, serving, usage

from tools.clients.prompts import PromptSource
from tools.measures.bed import Bed
from tools.measures.load import goals, has_slots, load, load_row
from tools.measures.loads import LOADS, RATE, Looked, Seen, fickle, impatient
from tools.measures.plan import QUICK, Plan
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


async def test_the_loads_can_be_measured() -> None:
    prompts = PromptSource()
    async with serve(SCRIPTED_COMMAND, ["--slots", "4"]) as server:
        for name, each in LOADS.items():
            if name in ("behind", "beside"):  # where nothing takes time there is nothing to come behind
                continue
            seen = await each.draw(prompts, Random(0), QUICK)(server.target)
            assert seen.broken == [], name
            assert all(seen.figures[looked.name] is not None for looked in each.looked), name


async def test_what_is_drawn_for_a_round_is_asked_of_every_server() -> None:
    script = LOADS["fickle"].draw(PromptSource(), Random(0), QUICK)
    async with serving(told(48)) as (one, target), serving(told(48)) as (another, other):
        await script(target)
        await script(other)
    assert sorted(_bodies(one)) == sorted(_bodies(another)) != []


def _bodies(server: FakeServer) -> list[bytes]:
    return [visit.request.partition(b"\r\n\r\n")[2] for visit in server.visits]


def told(tokens: int) -> Script:
    """A server that says at once that it has written so many tokens."""

    async def answer(stream: trio.SocketStream) -> None:
        written = delta("a") + delta("b", finish='"length"') + usage(tokens) + DONE
        await stream.send_all(HEAD + chunked(written) + LAST)

    return answer


def test_every_other_client_gives_up_twice_and_then_stays() -> None:
    questions = impatient(PromptSource(), Random(0), Plan())
    assert [len(question.tries_s) for question in questions] == [1, 3] * 12
    assert {question.tries_s[-1] for question in questions} == {None}
    given_up_s = [at_s for question in questions for at_s in question.tries_s[:-1]]
    assert all(at_s is not None and 0.1 <= at_s <= 3.0 for at_s in given_up_s)


def test_six_of_ten_are_given_up_for_another_question() -> None:
    questions = fickle(PromptSource(), Random(0), Plan())
    assert sum(question.tries_s != (None,) for question in questions) == 36
    assert len({question.prompt[1]["content"] for question in questions}) == len(questions)


def test_the_same_clients_give_up_at_the_same_time_in_every_run() -> None:
    one, another, later = (
        [question.tries_s for question in fickle(PromptSource(), Random(seed), Plan())]
        for seed in ("fickle 0", "fickle 0", "fickle 1")
    )
    assert one == another != later


async def test_a_short_prompt_counts_that_came_while_the_long_one_was_computed() -> None:
    has_come = trio.Event()
    waiting = 0

    async def long_waits_for_short(stream: trio.SocketStream) -> None:
        nonlocal waiting
        waiting += 1
        if waiting % 2:
            await has_come.wait()
            await told(48)(stream)
        else:
            await trio.sleep(0.05)
            await told(8)(stream)
            has_come.set()

    one_try = replace(QUICK, load_share=0.0, behind_s=0.02)
    async with serving(long_waits_for_short) as (_, target):
        seen = await LOADS["behind"].draw(PromptSource(), Random(0), one_try)(target)
    assert seen.broken == []
    ttft_s = seen.figures["TTFT worst s"]
    assert ttft_s is not None
    assert ttft_s >= 0.05


async def test_a_short_prompt_after_the_long_ones_answer_shows_nothing() -> None:
    one_try = replace(QUICK, load_share=0.0, behind_s=0.1)
    count = 0

    async def at_once(stream: trio.SocketStream) -> None:
        nonlocal count
        count += 1
        await told(48 if count % 2 else 8)(stream)

    async with serving(at_once) as (_, target):
        seen = await LOADS["behind"].draw(PromptSource(), Random(0), one_try)(target)
    assert seen.broken == []
    assert set(seen.figures.values()) == {None}


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
