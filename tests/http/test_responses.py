"""Responses from end to end on the scripted backend, at the ASGI boundary."""

import json
from typing import Any

import pytest
import trio
import trio.testing
from tests.harness import Client, Gate, serving
from tests.http.apis import RESPONSES, frames, text_of
from tests.http.watch import opening

from corral.engine.local.scripted import ScriptedBackend, replying

PATH = "/v1/responses"


def echo() -> ScriptedBackend:
    """Says how often it was spoken to, and the last thing that was said."""
    return ScriptedBackend(
        replying(
            lambda text: (
                f"{text.count('user' + chr(10))} {text.split('user' + chr(10))[-1].split(chr(10))[0]}"
            )
        )
    )


def said(response: Any) -> str:
    [item] = response["output"]
    return str(item["content"][0]["text"])


async def ask(client: Client, text: str, **fields: Any) -> Any:
    return await RESPONSES.send(client, text, **fields).json()


async def test_a_stream_and_an_answer_say_the_same_and_both_are_found_again() -> None:
    async with serving(echo()) as client:
        answer = await ask(client, "tell me ☂")
        assert said(answer) == "1 tell me ☂"
        assert answer["model"] == "scripted"
        told = await RESPONSES.send(client, "tell me ☂", stream=True).body()
        assert text_of(RESPONSES, told) == "1 tell me ☂"
        streamed = frames(told)[-1][1]["response"]
        for response in (answer, streamed):
            found = client.send("GET", f"{PATH}/{response['id']}")
            assert await found.json() == response
            items = await client.send("GET", f"{PATH}/{response['id']}/input_items").json()
            assert [item["content"][0]["text"] for item in items["data"]] == ["tell me ☂"]


async def test_a_conversation_goes_on_and_can_be_forgotten() -> None:
    async with serving(echo()) as client:
        first = await ask(client, "one")
        second = await ask(client, "two", previous_response_id=first["id"])
        assert said(second) == "2 two"
        assert second["previous_response_id"] == first["id"]
        deleted = client.send("DELETE", f"{PATH}/{first['id']}")
        assert await deleted.json() == {"id": first["id"], "object": "response.deleted", "deleted": True}
        assert said(await ask(client, "three", previous_response_id=second["id"])) == "3 three"
        gone = RESPONSES.send(client, "four", previous_response_id=first["id"])
        error = (await gone.json())["error"]
        assert (error["code"], error["param"]) == ("previous_response_not_found", "previous_response_id")
        assert gone.status == 400
        nowhere = client.send("GET", f"{PATH}/{first['id']}")
        assert (await nowhere.json())["error"]["code"] == "not_found"
        assert nowhere.status == 404


async def test_what_is_not_to_be_stored_is_not_found_and_not_gone_on_from() -> None:
    async with serving(echo()) as client:
        answer = await ask(client, "one", store=False)
        assert answer["store"] is False
        nowhere = client.send("GET", f"{PATH}/{answer['id']}")
        await nowhere.body()
        assert nowhere.status == 404
        refused = RESPONSES.send(client, "two", previous_response_id=answer["id"])
        assert (await refused.json())["error"]["code"] == "previous_response_not_found"


@pytest.mark.parametrize("settings", [{"stored_responses_bytes": 0}, {"stored_responses_bytes": 1}])
async def test_a_server_without_room_stores_nothing(settings: dict[str, Any]) -> None:
    async with serving(echo(), **settings) as client:
        answer = await ask(client, "one")
        nowhere = client.send("GET", f"{PATH}/{answer['id']}")
        await nowhere.body()
        assert nowhere.status == 404


async def test_one_keys_answers_are_not_there_for_another() -> None:
    async with serving(echo(), api_keys=("mine", "yours"), status_key="s") as client:
        mine, yours = {"Authorization": "Bearer mine"}, {"Authorization": "Bearer yours"}
        answer = await ask(client, "a secret", headers=mine)
        path = f"{PATH}/{answer['id']}"
        for method, target in (
            ("GET", path),
            ("DELETE", path),
            ("GET", f"{path}/input_items"),
            ("POST", f"{path}/cancel"),
        ):
            exchange = client.send(method, target, headers=yours)
            assert b"secret" not in await exchange.body()
            assert exchange.status == 404
        refused = RESPONSES.send(client, "and?", headers=yours, previous_response_id=answer["id"])
        assert (await refused.json())["error"]["code"] == "previous_response_not_found"
        assert (await client.send("GET", path, headers=mine).json())["id"] == answer["id"]


async def test_a_prompt_is_measured_as_the_request_that_has_it() -> None:
    async with serving(echo()) as client:
        first = await ask(client, "one")
        body = {"input": "two", "instructions": "be brief", "previous_response_id": first["id"]}
        measured = await client.send("POST", f"{PATH}/input_tokens", body).json()
        answer = await client.send("POST", PATH, body).json()
        assert measured == {
            "object": "response.input_tokens",
            "input_tokens": answer["usage"]["input_tokens"],
        }


async def test_a_running_stream_is_seen_and_cancelled_and_its_slot_is_free() -> None:
    gate = Gate()
    async with serving(ScriptedBackend(on_step=gate), slots=1) as client, opening(gate):
        stream = RESPONSES.send(client, "hello", stream=True)
        created = frames(await stream.chunk())[0][1]["response"]
        path = f"{PATH}/{created['id']}"
        await gate.wait_arrived()
        assert (await client.send("GET", path).json())["status"] == "in_progress"
        told = await client.send("POST", f"{path}/cancel").json()
        assert (told["id"], told["status"]) == (created["id"], "cancelled")
        last = frames(await stream.body())[-1]
        assert last[0] == "response.failed"
        assert last[1]["response"]["status"] == "cancelled"
        gate.open()
        assert said(await ask(client, "next", max_tokens=3))
        again = await client.send("POST", f"{path}/cancel").json()
        assert again["status"] == "cancelled", "cancelling twice tells the same"
        await client.service.wait_settled()
        assert client.service.ledger.totals.by_outcome["responses", "cancelled"] == 1


async def test_a_stream_whose_client_left_is_not_there_any_more() -> None:
    gate = Gate()
    async with serving(ScriptedBackend(on_step=gate)) as client, opening(gate):
        stream = RESPONSES.send(client, "hello", stream=True)
        created = frames(await stream.chunk())[0][1]["response"]
        await gate.wait_arrived()
        stream.leave()
        gate.open()
        await client.service.wait_settled()
        nowhere = client.send("GET", f"{PATH}/{created['id']}")
        await nowhere.body()
        assert nowhere.status == 404


async def test_silence_is_filled_with_what_codex_counts_from_the_queue_on(
    mock_clock: trio.testing.MockClock,
) -> None:
    gate = Gate()
    backend = ScriptedBackend(on_step=gate)
    async with serving(backend, slots=1, stream_keepalive_s=3) as client, opening(gate):
        streams = [RESPONSES.send(client, text, stream=True) for text in ("first", "second")]
        for stream in streams:
            created, progress = frames(await stream.chunk())
            assert (created[0], progress[0]) == ("response.created", "response.in_progress")
        await gate.wait_arrived()
        for number in range(2, 7):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(3)
            for stream in streams:
                [(name, data)] = frames(await stream.chunk())
                assert (name, data["sequence_number"]) == ("response.in_progress", number)
        for stream in streams:
            stream.leave()


async def test_a_large_body_that_goes_on_from_another_is_parsed_off_the_loop() -> None:
    async with serving(ScriptedBackend(replying(lambda _: "ok"), ctx_tokens=2**20)) as client:
        first = await ask(client, "x" * 70_000)
        second = await ask(client, "y" * 70_000, previous_response_id=first["id"])
        assert second["usage"]["input_tokens"] > 140_000
        assert json.loads(await client.send("GET", f"{PATH}/{second['id']}").body()) == second
