"""Every API over a server elsewhere: answers, errors in each API's shape, and what there is no longer."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from tests.engine.upstream.scripted import (
    DONE,
    LAST,
    STREAM,
    ScriptedUpstream,
    Visit,
    chunk,
    delta,
    frame,
    serving,
    usage,
)
from tests.harness import Client, serving_app
from tests.http.apis import APIS, Api, end_of, end_of_whole, text_of

from corral.application import application
from corral.settings import Settings


@asynccontextmanager
async def front(*upstreams: ScriptedUpstream, **settings: Any) -> AsyncIterator[Client]:
    async with serving(*upstreams):
        urls = ",".join(f"http://127.0.0.1:{upstream.port}" for upstream in upstreams)
        read = Settings(upstream=urls, stream_interval_ms=0, **settings)
        async with serving_app(application(read), read) as client:
            yield client


async def says_hello(visit: Visit) -> None:
    await visit.say(delta("hello "), delta("there"), delta(finish="stop"), usage(9, 2, 4), DONE)
    await visit.send(LAST)


async def says_a_word(visit: Visit) -> None:
    await visit.say(delta("hello"))
    await trio.sleep_forever()


async def breaks_off(visit: Visit) -> None:
    await visit.say(delta("hello"))
    await visit.stream.aclose()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
async def test_an_answer_comes_by_every_api_and_is_always_streamed_upstream(api: Api, stream: bool) -> None:
    upstream = ScriptedUpstream(says_hello)
    async with front(upstream) as client:
        exchange = api.send(client, "hi", stream=stream)
        body = await exchange.body()
    assert exchange.status == 200
    assert upstream.visits[0].body["stream"] is True
    if stream:
        assert text_of(api, body) == "hello there"
    else:
        assert b"hello there" in body
        assert "error" not in end_of_whole(api, json.loads(body))


async def test_usage_is_what_the_upstream_counted() -> None:
    async with front(ScriptedUpstream(says_hello)) as client:
        answer = await client.chat().json()
    assert answer["usage"]["prompt_tokens"] == 9
    assert answer["usage"]["completion_tokens"] == 2
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}


async def test_several_choices_are_as_many_requests_of_one() -> None:
    upstream = ScriptedUpstream(says_hello)
    async with front(upstream) as client:
        answer = await client.chat(n=2).json()
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["hello there"] * 2
    assert ["n" in visit.body for visit in upstream.visits] == [False, False]


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
async def test_an_answer_that_breaks_off_ends_in_the_apis_own_error(api: Api) -> None:
    async with front(ScriptedUpstream(breaks_off)) as client:
        body = await api.send(client, "hi", stream=True).body()
        exchange = api.send(client, "hi")
        whole = await exchange.json()
    assert text_of(api, body) == "hello"
    assert end_of(api, body).startswith("error ")
    assert exchange.status == 503
    assert end_of_whole(api, whole).startswith("error ")


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
async def test_while_no_upstream_answers_everybody_is_told_so_at_once(api: Api) -> None:
    upstream = ScriptedUpstream()
    async with front(upstream, upstream_probe_s=0.1) as client:
        upstream.hangs = True
        [replica] = client.service._engine.fleet.replicas  # type: ignore[attr-defined]
        gone = trio.Event()
        client.service._engine.on_capacity.append(gone.set)
        await gone.wait()
        exchange = api.send(client, "hi", stream=True)
        answer = await exchange.json()
        health = client.send("GET", "/health")
        assert (await health.json())["status"] == "failed"
    assert (exchange.status, health.status) == (503, 503)
    assert "none of the engines" in json.dumps(answer)
    assert not replica.is_in_service


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_is_gone_upstream_whether_it_streams_or_not(stream: bool) -> None:
    upstream = ScriptedUpstream(says_a_word)
    async with front(upstream) as client:
        exchange = client.chat(stream=stream)
        visit = await upstream.visit(0)
        await trio.testing.wait_all_tasks_blocked()
        exchange.leave()
        await visit.gone.wait()
        assert visit.went == "rst"
        await client.service.wait_settled()


async def test_no_more_are_sent_than_the_upstream_has_slots_and_who_waits_is_told_where() -> None:
    upstream = ScriptedUpstream(says_a_word, slots=1)
    async with front(upstream) as client:
        running = client.chat(stream=True)
        await upstream.visit(0)
        waiting = client.chat(stream=True, return_progress=True)
        while b"queue_progress" not in (await waiting.chunk()):
            pass
        assert len(upstream.visits) == 1
        running.leave()
        await upstream.visit(1)
        waiting.leave()


async def test_a_silent_upstream_does_not_keep_our_keepalive_from_coming() -> None:
    async def silent(visit: Visit) -> None:
        await visit.send(STREAM)
        while True:
            await visit.send(chunk(b": upstream\n\n"))
            await trio.sleep(0.01)

    async with front(ScriptedUpstream(silent), stream_keepalive_s=0.05) as client:
        exchange = client.chat(stream=True)
        told = b""
        while told.count(b"chat.completion.chunk") < 4:
            told += await exchange.chunk()
        assert b"upstream" not in told
        exchange.leave()


async def test_a_client_that_does_not_read_is_evicted_and_its_upstream_freed() -> None:
    async def floods(visit: Visit) -> None:
        await visit.send(STREAM)
        while True:
            await visit.send(chunk(delta("x" * 1000)))

    upstream = ScriptedUpstream(floods)
    async with front(upstream, reader_bytes=65_536) as client:
        exchange = client.chat(stream=True, buffered_chunks=0)
        visit = await upstream.visit(0)
        await visit.gone.wait()
        assert visit.went == "rst"
        assert exchange.aborted


async def test_thoughts_and_calls_come_as_the_upstream_told_them() -> None:
    async def calls(visit: Visit) -> None:
        call = {"index": 0, "id": "c9", "function": {"name": "look", "arguments": '{"a":1}'}}
        await visit.say(
            frame({"choices": [{"delta": {"reasoning_content": "hm"}}]}),
            frame({"choices": [{"delta": {"tool_calls": [call]}}]}),
            delta(finish="tool_calls"),
            DONE,
        )
        await visit.send(LAST)

    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    async with front(ScriptedUpstream(calls)) as client:
        [choice] = (await client.chat(tools=tools).json())["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["reasoning_content"] == "hm"
    [call] = choice["message"]["tool_calls"]
    assert (call["id"], call["function"]) == ("c9", {"name": "look", "arguments": '{"a":1}'})


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/tokenize", {"content": "x"}, 404, "tells nothing of its tokens"),
        ("/apply-template", {"messages": [{"role": "user", "content": "x"}]}, 404, "tells nothing"),
        ("/v1/embeddings", {"input": "x", "model": "m"}, 400, "no texts to embed"),
    ],
)
async def test_what_there_is_not_over_an_upstream_says_so(
    path: str, body: Any, status: int, says: str
) -> None:
    async with front(ScriptedUpstream()) as client:
        exchange = client.send("POST", path, body)
        answer = await exchange.json()
    assert exchange.status == status
    assert says in answer["error"]["message"]


async def test_a_field_that_the_upstream_does_not_have_is_refused_by_its_name() -> None:
    upstream = ScriptedUpstream(owner="somebody")
    async with front(upstream) as client:
        exchange = client.chat(min_p=0.2)
        answer = await exchange.json()
    assert exchange.status == 400
    assert answer["error"]["param"] == "min_p"
    assert not upstream.visits


async def test_status_shows_which_replica_has_a_request() -> None:
    upstream = ScriptedUpstream(says_a_word)
    async with front(upstream) as client:
        exchange = client.chat(stream=True)
        await exchange.chunk()
        await exchange.chunk()
        told = await client.send("GET", "/status/json").json()
        assert told["requests"][0]["replicas"] == [f"127.0.0.1:{upstream.port}"]
        exchange.leave()


async def test_models_lists_the_one_and_props_its_slots() -> None:
    async with front(ScriptedUpstream(slots=3, ctx_tokens=77)) as client:
        models = await client.send("GET", "/v1/models").json()
        props = await client.send("GET", "/props").json()
    assert [(model["id"], model["max_model_len"]) for model in models["data"]] == [("scripted", 77)]
    assert props["slots"] == 3


async def test_an_operator_drains_a_replica_and_takes_that_back() -> None:
    upstream = ScriptedUpstream()
    async with front(upstream, ScriptedUpstream()) as client:
        name = f"127.0.0.1:{upstream.port}"
        assert (await client.send("POST", f"/v1/replicas/{name}/drain").json())["draining"] is True
        told = await client.send("GET", "/status/json").json()
        assert [replica["state"] for replica in told["replicas"]] == ["draining", "in service"]
        assert told["server"]["slots"] == 2
        assert (await client.send("POST", f"/v1/replicas/{name}/resume").json())["draining"] is False
        unknown = client.send("POST", "/v1/replicas/nobody:1/drain")
        await unknown.body()
        assert unknown.status == 404
        metrics = (await client.send("GET", "/metrics").body()).decode()
        assert f'corral_replica_in_service{{replica="{name}"}} 1.0' in metrics


async def test_a_session_of_a_client_is_known_to_routing() -> None:
    upstreams = ScriptedUpstream(says_hello), ScriptedUpstream(says_hello)
    async with front(*upstreams) as client:
        for number in range(6):
            await client.chat(f"question {number}", prompt_cache_key="mine").json()
    assert sorted(len(upstream.visits) for upstream in upstreams) == [0, 6]


async def test_who_waits_when_a_replica_goes_waits_on_and_runs_when_one_is_back() -> None:
    upstream = ScriptedUpstream(says_a_word, slots=1)
    async with front(upstream) as client:
        name = f"127.0.0.1:{upstream.port}"
        running = client.chat(stream=True)
        await upstream.visit(0)
        waiting = client.chat(stream=True, return_progress=True)
        while b"queue_progress" not in (await waiting.chunk()):
            pass
        await client.send("POST", f"/v1/replicas/{name}/drain").json()
        running.leave()
        await upstream.visits[0].gone.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(upstream.visits) == 1
        await client.send("POST", f"/v1/replicas/{name}/resume").json()
        await upstream.visit(1)
        waiting.leave()
