"""What /status tells of who asked, how it was answered and what was refused; and what a reader may do."""

from typing import Any

import pytest
import trio.testing
from tests.harness import Client, serving
from tests.http.watch import watching

from corral.engine.local.scripted import ScriptedBackend, replying
from corral.watching.history import REFUSALS

CHAT = "/v1/chat/completions"
ASKED = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
ELSEWHERE = {"X-Forwarded-For": "192.0.2.1"}


def backend() -> ScriptedBackend:
    return ScriptedBackend(replying(lambda _: "ok"))


async def ask(client: Client, headers: dict[str, str] | None = None, **fields: Any) -> None:
    await client.send("POST", CHAT, {**ASKED, **fields}, headers=headers).body()
    await client.service.wait_settled()


async def snapshot(client: Client) -> Any:
    return await client.send("GET", "/status/json").json()


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({"X-Session-Id": "talk-7"}, {}),
        ({"session_id": "talk-7"}, {}),
        ({}, {"session_id": "talk-7"}),
        ({}, {"prompt_cache_key": "talk-7"}),
    ],
)
async def test_a_row_says_who_asked_in_which_session_and_how_it_was_answered(
    headers: dict[str, str], fields: dict[str, Any]
) -> None:
    async with serving(backend()) as client:
        await ask(client, headers, **fields)
        seen = await snapshot(client)
    for told in (*seen["history"], *seen["recent"]):
        assert (told["session"], told["client"], told["status"]) == ("talk-7", "127.0.0.1", 200)


async def test_claude_codes_session_is_known_and_its_user_is_not() -> None:
    user = "user_5f1b0c_account_7c9e6679-7425_session_6b86b273-ff34-4ce1"
    async with serving(backend()) as client:
        body = {**ASKED, "model": "m", "metadata": {"user_id": user}}
        await client.send("POST", "/v1/messages", body).body()
        await client.service.wait_settled()
        answer = client.send("GET", "/status/json")
        raw = await answer.body()
    assert b'"session":"6b86b273-ff34-4ce1"' in raw
    assert b"5f1b0c" not in raw
    assert b"7c9e6679" not in raw


async def test_a_prompt_that_is_refused_has_its_status_in_its_row_and_is_among_the_refusals() -> None:
    async with serving(backend()) as client:
        await ask(client, max_tokens=10**6)
        seen = await snapshot(client)
    [row], [refused] = seen["history"], seen["refusals"]
    assert (row["outcome"], row["status"]) == ("refused", 400)
    assert (refused["status"], refused["code"], refused["param"]) == (400, "context_exceeded", "max_tokens")
    assert refused["id"] == row["request_id"]


async def test_refusals_are_listed_with_what_was_wrong_and_told_to_who_watches() -> None:
    async with serving(backend()) as client, watching(client) as watch:
        await ask(client, {"X-Request-Id": "trace-1"}, n=99)
        await watch.until(lambda watch: watch.state["refusals"])
        [refused] = watch.state["refusals"]
        told = {name: value for name, value in refused.items() if name != "at"}
        assert told == {
            "id": "trace-1",
            "client": "127.0.0.1",
            "method": "POST",
            "path": CHAT,
            "status": 400,
            "code": "invalid_request",
            "param": "n",
        }
        assert (await snapshot(client))["refusals"] == [refused]


async def test_a_flood_of_refusals_costs_a_reader_little_and_is_counted_whole(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with serving(backend()) as client, watching(client) as watch:
        for _ in range(REFUSALS + 20):
            await client.send("GET", "/nothing").body()
        mock_clock.jump(2)
        await trio.testing.wait_all_tasks_blocked()
        watch.take_waiting()
        told = [data for event, data in watch.events if event == "refusals"]
        assert sum(map(len, told)) <= 20
        seen = await snapshot(client)
        assert len(seen["refusals"]) == REFUSALS
        assert seen["totals"]["refused"] == REFUSALS + 20


@pytest.mark.parametrize(
    ("settings", "headers", "expected"),
    [
        ({}, {}, {"may_stop": True, "sees_content": False}),
        ({"status_content": True}, {}, {"may_stop": True, "sees_content": True}),
        ({"status_content": True}, ELSEWHERE, {"may_stop": False, "sees_content": False}),
        (
            {"status_key": "key", "status_content": True},
            {**ELSEWHERE, "Authorization": "Bearer key"},
            {"may_stop": True, "sees_content": True},
        ),
    ],
)
async def test_a_reader_is_told_what_it_may_do(
    settings: dict[str, Any], headers: dict[str, str], expected: dict[str, bool]
) -> None:
    async with serving(backend(), **settings) as client, watching(client, **headers) as watch:
        assert watch.rights == expected


async def test_how_full_it_is_names_its_limits() -> None:
    async with serving(backend(), slots=3, queue_requests=5) as client:
        await ask(client)
        seen = await snapshot(client)
    assert (seen["server"]["slots"], seen["server"]["queue_limit"]) == (3, 5)
    load = seen["load"]
    assert (load["busy"], load["waiting"], load["context_tokens"]) == (0, 0, 0)
    assert load["kept_tokens"] > 0, "what it said stays as a prefix"
    assert load["memory_bytes"] > 2**20
    assert load["memory_bytes"] < seen["server"]["machine_bytes"]
    assert seen["hour"]["bucket_s"] == 10
