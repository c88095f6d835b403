"""An upstream dies in the midst of an answer: said anew for who wants it whole, or gone on with elsewhere."""

import json
import logging
from collections.abc import Iterable
from typing import Any

import pytest
import trio.testing
from tests.engine.upstream.scripted import (
    DONE,
    LAST,
    Play,
    ScriptedUpstream,
    Visit,
    chunk,
    delta,
    frame,
    usage,
)
from tests.harness import Client
from tests.http.apis import APIS, Api, end_of, end_of_whole, text_of
from tests.http.test_upstream import front

TALE = "Once upon a time there were sheep. "
WORDS = [f"{word} " for word in TALE.split()]
PROMPT_TOKENS = 9


def progress(done: int, total: int = PROMPT_TOKENS) -> bytes:
    return frame({"choices": [], "prompt_progress": {"total": total, "processed": done, "cache": 4}})


def said_to(visit: Visit) -> list[str]:
    """What of the tale its request has already."""
    last = visit.body["messages"][-1]
    said = last["content"].split() if last["role"] == "assistant" else []
    assert [f"{word} " for word in said] == WORDS[: len(said)]
    return said


def tells(visit: Visit, words: Iterable[str], cached: int = 4) -> bytes:
    """The frames of those words, and of the end."""
    said = said_to(visit)
    words = list(words)
    if said and words:
        words[0] = f" {words[0]}"  # as models do: the blank is in front of what follows
    size = PROMPT_TOKENS + len(said)
    return b"".join(
        map(chunk, [*map(delta, words), delta(finish="stop"), usage(size, len(words), cached), DONE])
    )


async def whole(visit: Visit) -> None:
    await visit.say(progress(PROMPT_TOKENS + len(said_to(visit)), PROMPT_TOKENS + len(said_to(visit))))
    await visit.send(tells(visit, WORDS[len(said_to(visit)) :]) + LAST)


def dies_after(words: int) -> Play:
    async def play(visit: Visit) -> None:
        await visit.say(progress(PROMPT_TOKENS), *map(delta, WORDS[:words]))
        await visit.stream.aclose()

    return play


async def books(client: Client) -> Any:
    """What /status has when all is over."""
    await client.service.wait_settled()
    return await client.send("GET", "/status/json").json()


# Who wants it whole


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
async def test_who_wants_it_whole_gets_what_another_says_from_the_beginning(api: Api) -> None:
    dying, well = ScriptedUpstream(dies_after(3)), ScriptedUpstream(whole)
    async with front(dying, well) as client:
        exchange = api.send(client, "hi")
        answer = await exchange.json()
        told = await books(client)
    assert exchange.status == 200
    assert "error" not in end_of_whole(api, answer)
    assert TALE.strip() in json.dumps(answer)
    assert len(dying.visits) == len(well.visits) == 1
    assert dying.visits[0].body == well.visits[0].body
    totals = told["totals"]
    assert totals["wasted"]["tokens_thrown_away"] == 3
    assert totals["completion_tokens"] == 3 + len(WORDS), "each is counted once, where it was made"
    assert totals["prompt_tokens"] == PROMPT_TOKENS
    assert not any(replica["in_flight"] or replica["work_tokens"] for replica in told["replicas"])


async def test_the_usage_of_an_answer_that_was_said_anew_is_its_own() -> None:
    async with front(ScriptedUpstream(dies_after(3)), ScriptedUpstream(whole)) as client:
        answer = await client.chat().json()
        metrics = (await client.send("GET", "/metrics").body()).decode()
    assert answer["usage"]["completion_tokens"] == len(WORDS)
    assert answer["usage"]["prompt_tokens"] == PROMPT_TOKENS
    assert 'corral_wasted_tokens_total{kind="again",outcome="stop"} 3.0' in metrics


async def test_of_several_choices_only_what_broke_off_is_said_anew() -> None:
    first = iter([dies_after(3), whole, whole])

    async def in_turns(visit: Visit) -> None:
        await next(first)(visit)

    async with front(ScriptedUpstream(in_turns), ScriptedUpstream(whole)) as client:
        answer = await client.chat(n=2, seed=7).json()
        told = await books(client)
    assert [choice["message"]["content"] for choice in answer["choices"]] == [TALE] * 2
    assert answer["usage"]["completion_tokens"] == 2 * len(WORDS)
    assert told["totals"]["wasted"]["tokens_thrown_away"] == 3


async def test_a_choice_that_is_said_anew_has_the_seed_that_it_had() -> None:
    dying, well = ScriptedUpstream(dies_after(1)), ScriptedUpstream(whole)
    async with front(dying, well) as client:
        await client.chat(seed=7).json()
    assert dying.visits[0].body["seed"] == well.visits[0].body["seed"] == 7


@pytest.mark.parametrize("others", [0, 1])
async def test_it_is_said_anew_once_and_only_if_there_is_another(others: int) -> None:
    upstreams = [ScriptedUpstream(dies_after(3)) for _ in range(1 + others)]
    async with front(*upstreams) as client:
        exchange = client.chat()
        answer = await exchange.json()
        told = await books(client)
    assert exchange.status == 503
    assert answer["error"]["code"] == "upstream_failed"
    assert [len(upstream.visits) for upstream in upstreams] == [1] * (1 + others)
    assert told["totals"]["wasted"]["tokens_thrown_away"] == 3 * others


async def test_a_client_that_leaves_while_it_is_said_anew_frees_who_says_it() -> None:
    async def begins(visit: Visit) -> None:
        await visit.say(delta(WORDS[0]))
        await trio.sleep_forever()

    saying = ScriptedUpstream(begins)
    async with front(ScriptedUpstream(dies_after(3)), saying) as client:
        exchange = client.chat()
        visit = await saying.visit(0)
        await trio.testing.wait_all_tasks_blocked()
        exchange.leave()
        await visit.gone.wait()
        assert visit.went == "rst"
        await client.service.wait_settled()


async def breaks_off_behind_it(visit: Visit) -> None:
    await visit.say(progress(PROMPT_TOKENS), *map(delta, WORDS), delta(finish="stop"))
    await visit.stream.aclose()


async def hangs_behind_it(visit: Visit) -> None:
    await visit.say(progress(PROMPT_TOKENS), *map(delta, WORDS), delta(finish="stop"))
    await visit.gone.wait()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ending", [breaks_off_behind_it, hangs_behind_it])
async def test_an_answer_that_has_said_why_it_ended_is_whole_whatever_comes_then(
    ending: Play, stream: bool
) -> None:
    other = ScriptedUpstream(whole)
    async with front(
        ScriptedUpstream(ending), other, upstream_continues=True, upstream_silence_s=0.2
    ) as client:
        body = await client.chat(stream=stream).body()
        told = await books(client)
    if stream:
        text, _, finish = folded(body)
    else:
        [choice] = json.loads(body)["choices"]
        text, finish = choice["message"]["content"], choice["finish_reason"]
    assert (text, finish) == (TALE, "stop")
    assert not other.visits
    assert told["totals"]["wasted"]["tokens_thrown_away"] == 0


# Who has a half of it


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
async def test_a_stream_is_gone_on_with_elsewhere_and_says_nothing_twice(api: Api) -> None:
    dying, well = ScriptedUpstream(dies_after(3)), ScriptedUpstream(whole)
    async with front(dying, well, upstream_continues=True) as client:
        body = await api.send(client, "hi", stream=True).body()
    assert text_of(api, body) == TALE
    assert not end_of(api, body).startswith("error")


@pytest.mark.parametrize("words", range(1, len(WORDS) + 1))
async def test_wherever_it_breaks_off_the_text_and_the_usage_are_those_of_the_whole(words: int) -> None:
    dying, well = ScriptedUpstream(dies_after(words)), ScriptedUpstream(whole)
    async with front(dying, well, upstream_continues=True) as client:
        exchange = client.chat(stream=True, stream_options={"include_usage": True}, max_tokens=50)
        text, told_usage, finish = folded(await exchange.body())
    assert (text, finish) == (TALE, "stop")
    assert told_usage == {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": len(WORDS), "cached": 4}
    asked = well.visits[0].body
    assert asked["messages"][-1] == {"role": "assistant", "content": "".join(WORDS[:words]).rstrip()}
    assert asked["max_tokens"] == 50 - words
    assert asked["continue_final_message"] is True


async def test_status_and_the_log_say_where_it_was_continued(caplog: pytest.LogCaptureFixture) -> None:
    async def goes_on(visit: Visit) -> None:
        await visit.say(delta(f" {WORDS[3]}"))
        await visit.gone.wait()

    dying, well = ScriptedUpstream(dies_after(3)), ScriptedUpstream(goes_on)
    name = "127.0.0.1:{}".format
    async with front(dying, well, upstream_continues=True) as client:
        with caplog.at_level(logging.INFO):
            exchange = client.chat(stream=True)
            while WORDS[3].encode() not in await exchange.chunk():
                pass
            told = await client.send("GET", "/status/json").json()
            exchange.leave()
            await client.service.wait_settled()
    [request] = told["requests"]
    assert request["continued_on"] == name(well.port)
    assert request["completion_tokens"] == 4
    assert f"broke off at {name(dying.port)} after 3 tokens" in caplog.text
    assert f"continued_on={name(well.port)}" in caplog.text


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": TOOLS},
        {"response_format": {"type": "json_object"}},
        {"grammar": 'root ::= "a"'},
        {"n": 2},
        {"logprobs": True},
        {"max_tokens": 3},
    ],
)
async def test_what_cannot_be_gone_on_with_ends_in_an_error(fields: dict[str, Any]) -> None:
    dying, well = ScriptedUpstream(dies_after(3)), ScriptedUpstream(dies_after(3))
    async with front(dying, well, upstream_continues=True) as client:
        body = (await client.chat(stream=True, **fields).body()).decode()
    assert "upstream_failed" in body
    assert all(visit.body["messages"][-1]["role"] == "user" for visit in dying.visits + well.visits)


async def test_a_thought_is_not_gone_on_with() -> None:
    async def thinks(visit: Visit) -> None:
        await visit.say(frame({"choices": [{"delta": {"reasoning_content": "hm"}}]}), delta(WORDS[0]))
        await visit.stream.aclose()

    well = ScriptedUpstream(whole)
    async with front(ScriptedUpstream(thinks), well, upstream_continues=True) as client:
        assert b"upstream_failed" in await client.chat(stream=True).body()
    assert not well.visits


async def test_what_has_ended_is_not_gone_on_with_though_an_error_follows() -> None:
    async def fails_behind_it(visit: Visit) -> None:
        await visit.say(*map(delta, WORDS), delta(finish="stop"), frame({"error": {"message": "oh"}}))
        await visit.gone.wait()

    other = ScriptedUpstream(whole)
    async with front(ScriptedUpstream(fails_behind_it), other, upstream_continues=True) as client:
        assert b"upstream_failed" in await client.chat(stream=True).body()
    assert not other.visits


async def test_by_default_nothing_is_gone_on_with() -> None:
    well = ScriptedUpstream(whole)
    async with front(ScriptedUpstream(dies_after(3)), well) as client:
        body = await client.chat(stream=True).body()
    assert folded(body)[0] == "".join(WORDS[:3])
    assert b"upstream_failed" in body
    assert not well.visits


async def refuses(visit: Visit) -> None:
    await visit.answer(400, {"error": {"message": "a prefill is incompatible with thinking"}})


async def thinks_first(visit: Visit) -> None:
    await visit.say(frame({"choices": [{"delta": {"reasoning_content": "hm"}}]}))
    await visit.gone.wait()


@pytest.mark.parametrize("other", [refuses, thinks_first, dies_after(0)])
async def test_where_another_cannot_go_on_the_client_is_told_why_it_broke_off(other: Play) -> None:
    async with front(
        ScriptedUpstream(dies_after(3)), ScriptedUpstream(other), upstream_continues=True
    ) as client:
        body = await client.chat(stream=True).body()
        told = await books(client)
    assert folded(body)[0] == "".join(WORDS[:3])
    assert b"broke off its answer" in body
    assert b"incompatible" not in body
    assert not any(replica["in_flight"] or replica["work_tokens"] for replica in told["replicas"])


async def test_an_upstream_that_continues_no_message_is_asked_for_no_rest() -> None:
    first, other = ScriptedUpstream(dies_after(3)), ScriptedUpstream(whole, owner="somebody")
    async with front(first, other, upstream_continues=True) as client:
        body = await client.chat(stream=True).body()
    assert b"broke off its answer" in body
    assert not other.visits


def folded(body: bytes) -> tuple[str, dict[str, int] | None, str | None]:
    """The text of a stream, its usage, and why it ended."""
    text, told_usage, finish = "", None, None
    for line in body.splitlines():
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        for choice in event.get("choices") or ():
            text += choice["delta"].get("content") or ""
            finish = choice.get("finish_reason") or finish
        if counts := event.get("usage"):
            told_usage = {name: counts[name] for name in ("prompt_tokens", "completion_tokens")}
            told_usage["cached"] = counts["prompt_tokens_details"]["cached_tokens"]
    return text, told_usage, finish
