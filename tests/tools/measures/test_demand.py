import trio
from tests.tools.fakeserver import DONE, HEAD, LAST, chunked, delta, serving, usage

from tools.measures.demand import Question, ask_all
from tools.servers.server import SCRIPTED_COMMAND, serve

PROMPT = [{"role": "user", "content": "Hi"}]


async def answer(stream: trio.SocketStream) -> None:
    await stream.send_all(HEAD + chunked(delta("a") + delta("b", finish='"stop"') + usage(2) + DONE) + LAST)


async def silence(stream: trio.SocketStream) -> None:
    await stream.send_all(HEAD)
    await trio.sleep_forever()


async def test_clients_share_one_list_and_ask_each_question_once() -> None:
    async with serving(answer) as (server, target):
        round_ = await ask_all(target, [Question(PROMPT, 2)] * 7, clients=3)
    assert round_.broken == []
    assert len(server.visits) == len(round_.answers) == 7
    assert round_.tokens_s is not None
    assert round_.answers_min is not None
    assert round_.tokens_s * 30 == round_.answers_min  # two tokens an answer


async def test_no_more_ask_at_once_than_there_are_clients(autojump_clock: trio.testing.MockClock) -> None:
    at_once, most = 0, 0

    async def count(stream: trio.SocketStream) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await trio.sleep(1)
        at_once -= 1
        await answer(stream)

    async with serving(count) as (_, target):
        await ask_all(target, [Question(PROMPT, 2)] * 9, clients=3)
    assert most == 3


async def test_who_gives_up_asks_again_as_often_as_it_is_said() -> None:
    async with serving(silence) as (server, target):
        given_up = await ask_all(target, [Question(PROMPT, 2, (0.01, 0.01))] * 2, clients=2)
        assert (given_up.left, given_up.answers, given_up.answers_min) == (4, [], None)
        assert len(server.visits) == 4
        assert given_up.broken == []


async def test_an_answer_that_comes_in_time_is_not_asked_for_again() -> None:
    async with serving(answer) as (server, target):
        round_ = await ask_all(target, [Question(PROMPT, 2, (30.0, None))], clients=2)
    assert (len(server.visits), len(round_.answers), round_.left) == (1, 1, 0)


async def test_an_answer_of_another_length_breaks_the_comparison() -> None:
    async with serving(answer) as (_, target):
        round_ = await ask_all(target, [Question(PROMPT, 3)], clients=1)
    assert round_.broken == ["2 tokens came where 3 were asked for"]


async def test_a_server_writes_on_until_the_length_that_was_asked_for() -> None:
    # `told` ends by itself after the letters that the system message names: here after five
    prompt = [{"role": "system", "content": "0000005"}, *PROMPT]
    async with serve(f"{SCRIPTED_COMMAND} --script told", ["--slots", "1"]) as server:
        round_ = await ask_all(server.target, [Question(prompt, 9)], clients=1)
    assert round_.broken == []
    assert round_.answers[0].finish_reason == "length"
