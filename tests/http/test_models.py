"""Several models by name: one in this process and two elsewhere, of which one has two replicas."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.engine.upstream.scripted import DONE, LAST, Play, ScriptedUpstream, Visit, delta, serving, usage
from tests.harness import Client, serving_app
from tests.http.apis import APIS, ASK_OF_TEXTS, MESSAGES, Api, text_of

from corral.application import Application
from corral.engine.local.scripted import ScriptedBackend, embeds, replying
from corral.errors import StartupError
from corral.settings import Settings, Upstream
from corral.wiring.fleets import fleets_of

NAMES = ["scripted", "far", "wide"]


def says(text: str) -> Play:
    async def play(visit: Visit) -> None:
        await visit.say(delta(text), delta(finish="stop"), usage(9, 2), DONE)
        await visit.send(LAST)

    return play


@dataclass
class Front:
    client: Client
    far: ScriptedUpstream
    wide: tuple[ScriptedUpstream, ScriptedUpstream]


@asynccontextmanager
async def several(**settings: Any) -> AsyncIterator[Front]:
    """ "far" is asked for by its own name, "wide" by what its replicas call it."""
    far = ScriptedUpstream(says("from afar"), ctx_tokens=500)
    wide = ScriptedUpstream(says("from one")), ScriptedUpstream(says("from the other"))
    backend = ScriptedBackend(replying(lambda _: "from here"), embeds=embeds(dimensions=8))
    async with serving(far, *wide):
        urls = [f"http://127.0.0.1:{upstream.port}" for upstream in (far, *wide)]
        upstreams = (
            Upstream(url=urls[0], models=("far",)),
            *(Upstream(url=url, models={"wide": "org/wide-7b"}) for url in urls[1:]),
        )
        read = Settings(upstreams=upstreams, stream_interval_ms=0, slots=3, **settings)
        async with serving_app(Application(read, lambda: (backend, "scripted")), read) as client:
            yield Front(client, far, wide)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
async def test_the_model_that_a_request_names_answers_by_every_api(api: Api, stream: bool) -> None:
    async with several() as front:
        said = []
        for name in NAMES:
            exchange = api.send(front.client, "hi", stream=stream, model=name)
            body = await exchange.body()
            assert exchange.status == 200, body
            said.append(text_of(api, body) if stream else body.decode())
        for text, wanted in zip(said, ["from here", "from afar", "from "], strict=True):
            assert wanted in text
        assert front.far.visits[0].body["model"] == "far"
        [visit] = [visit for each in front.wide for visit in each.visits]
        assert visit.body["model"] == "org/wide-7b"
        if not stream:
            assert [json.loads(text)["model"] for text in said] == NAMES


async def test_completions_go_to_the_model_that_they_name() -> None:
    async with several() as front:
        body = {"model": "far", "prompt": "hi"}
        answer = await front.client.send("POST", "/v1/completions", body).json()
        assert answer["model"] == "far"
        assert front.far.visits[0].head.startswith(b"POST /v1/completions")
        missing = front.client.send("POST", "/v1/completions", {**body, "model": "gpt-9"})
        await missing.body()
        assert missing.status == 404


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
async def test_a_model_that_is_not_there_is_the_apis_own_404_which_names_those_that_are(api: Api) -> None:
    async with several() as front:
        exchange = api.send(front.client, "hi", model="gpt-9")
        error = (await exchange.json())["error"]
    assert exchange.status == 404
    if api is MESSAGES:
        assert error["type"] == "not_found_error"
    else:
        assert (error["type"], error["code"]) == ("invalid_request_error", "model_not_found")
    assert "'gpt-9'" in error["message"]
    assert all(repr(name) in error["message"] for name in NAMES)


async def test_who_names_no_model_gets_the_first() -> None:
    async with several() as front:
        body = {"messages": [{"role": "user", "content": "hi"}]}
        answer = await front.client.send("POST", "/v1/chat/completions", body).json()
    assert answer["model"] == "scripted"


async def test_the_fleet_of_a_model_shares_its_requests_and_no_others_get_any() -> None:
    async with several() as front:
        for number in range(4):
            await front.client.chat(f"question {number}", model="wide").body()
    assert [len(each.visits) for each in (*front.wide, front.far)] == [2, 2, 0]


@pytest.mark.parametrize("path", ["/v1/models", "/models"])
async def test_models_are_listed_each_with_its_own_context(path: str) -> None:
    async with several() as front:
        listed = await front.client.send("GET", path).json()
        assert [model["id"] for model in listed["data"]] == NAMES
        assert (listed["first_id"], listed["last_id"]) == ("scripted", "wide")
        lengths = {model["id"]: model["max_model_len"] for model in listed["data"]}
        assert (lengths["far"], lengths["wide"]) == (500, 10_000)
        one = await front.client.send("GET", f"{path}/far").json()
        assert one == listed["data"][1]
        missing = front.client.send("GET", f"{path}/gpt-9")
        assert (await missing.json())["error"]["code"] == "model_not_found"
        assert missing.status == 404


async def test_props_are_those_of_the_model_in_the_query() -> None:
    async with several() as front:
        of_first = await front.client.send("GET", "/props").json()
        of_far = await front.client.send("GET", "/props?model=far").json()
        missing = front.client.send("GET", "/props?model=gpt-9")
        await missing.body()
    assert (of_first["model"], of_first["slots"], of_first["models"]) == ("scripted", 3, NAMES)
    assert (of_far["model"], of_far["slots"], of_far["request_ctx_tokens"]) == ("far", 2, 500)
    assert of_far["chat_template"] is None
    assert of_first["chat_template"] is not None
    assert missing.status == 404


@pytest.mark.parametrize(("path", "body"), ASK_OF_TEXTS)
async def test_what_tells_of_texts_goes_by_the_name_too(path: str, body: dict[str, Any]) -> None:
    async with several() as front:
        here = front.client.send("POST", path, {**body, "model": "scripted"})
        answer = await here.json()
        assert here.status == 200, answer
        there = front.client.send("POST", path, {**body, "model": "far"})
        elsewhere = await there.json()
        counts = "tokens" in path and "tokenize" not in path
        assert there.status == (200 if counts else 400 if "embeddings" in path else 404), elsewhere
        nowhere = front.client.send("POST", path, {**body, "model": "gpt-9"})
        await nowhere.body()
        assert nowhere.status == 404


async def test_a_response_is_gone_on_from_by_another_model() -> None:
    async with several() as front:
        first = await front.client.send("POST", "/v1/responses", {"model": "scripted", "input": "hi"}).json()
        body = {"model": "far", "input": "and?", "previous_response_id": first["id"]}
        second = await front.client.send("POST", "/v1/responses", body).json()
        kept = await front.client.send("GET", f"/v1/responses/{second['id']}").json()
        assert kept["model"] == "far"
    said = [message["content"] for message in front.far.visits[0].body["messages"]]
    assert said == ["hi", "from here", "and?"]


async def test_a_full_queue_of_one_model_refuses_nobody_of_another() -> None:
    async def silent(visit: Visit) -> None:
        await visit.gone.wait()

    async with several(queue_requests=0) as front:
        front.far.play = silent
        held = [front.client.chat("hi", model="far", stream=True) for _ in range(2)]
        await front.far.visit(1)
        refused = front.client.chat("hi", model="far")
        await refused.body()
        served = front.client.chat("hi", model="wide")
        await served.body()
        assert (refused.status, served.status) == (429, 200)
        for exchange in held:
            exchange.leave()


async def test_status_has_a_row_for_each_model_and_sums_over_all() -> None:
    async with several() as front:
        for name in ("wide", "wide", "far"):
            await front.client.chat("hi", model=name).body()
        for service in front.client.models.services:
            await service.wait_settled()
        told = await front.client.send("GET", "/status/json").json()
    rows = {row["name"]: row for row in told["models"]}
    assert list(rows) == NAMES
    assert [rows[name]["state"] for name in NAMES] == ["loaded", "elsewhere", "elsewhere"]
    assert [rows[name]["slots"] for name in NAMES] == [3, 2, 4]
    assert [rows[name]["requests"] for name in NAMES] == [0, 1, 2]
    assert rows["wide"]["prompt_tokens"] == 18
    assert told["server"]["slots"] == 9
    assert told["server"]["model"] == "scripted, far, wide"
    assert [row["model"] for row in told["history"]] == ["wide", "wide", "far"]
    assert len(told["replicas"]) == 3


async def test_metrics_and_the_log_name_the_model(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "corral.requests")
    async with several() as front:
        await front.client.chat("hi", model="wide").body()
        for service in front.client.models.services:
            await service.wait_settled()
        metrics = (await front.client.send("GET", "/metrics").body()).decode()
    samples = {
        (sample.name, sample.labels.get("model")): sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
    }
    assert samples["corral_model_requests_total", "wide"] == 1
    assert samples["corral_model_requests_total", "far"] == 0
    assert samples["corral_model_slots", "scripted"] == 3
    assert samples["corral_replica_slots", "far"] == 2
    assert "model='wide'" in caplog.text


async def test_one_model_is_not_told_of_by_itself() -> None:
    backend = ScriptedBackend()
    read = Settings()
    async with serving_app(Application(read, lambda: (backend, "scripted")), read) as client:
        told = await client.send("GET", "/status/json").json()
        metrics = (await client.send("GET", "/metrics").body()).decode()
        exchange = client.chat("hi", model="whatever", max_tokens=1)
        await exchange.body()
        assert exchange.status == 200
    assert "models" not in told
    assert "corral_model_" not in metrics


async def test_a_server_is_well_while_one_of_its_models_is() -> None:
    async with several() as front:
        name = f"127.0.0.1:{front.far.port}"
        await front.client.send("POST", f"/v1/replicas/{name}/drain").json()
        health = front.client.send("GET", "/health")
        await health.body()
        refused = front.client.chat("hi", model="far")
        await refused.body()
        assert (health.status, refused.status) == (200, 503)


async def test_reading_the_settings_again_changes_the_upstreams_of_each_model_and_no_models() -> None:
    async with several() as front:
        app = front.client.app
        url = "http://127.0.0.1:1"
        both = (Upstream(url=url, models=("far",)), Upstream(url="http://127.0.0.1:2", models=("wide",)))
        app.reconfigure(Settings(upstreams=both))
        for wrong, says_why in (
            ((*both, Upstream(url="http://127.0.0.1:3", models=("new",))), "no model 'new' yet"),
            ((both[0], Upstream(url="http://127.0.0.1:3", models=("new",))), "no model 'new' yet"),
            ((both[0],), "no upstream of 'wide' is left"),
            ((), "no upstream is left"),
        ):
            with pytest.raises(StartupError, match=says_why):
                app.reconfigure(Settings(upstreams=wrong))
        replicas = front.client.models.named("far").service.replicas
        assert "127.0.0.1:1" in [replica.name for replica in replicas]


async def test_upstreams_that_come_with_another_model_do_not_answer_for_the_one_that_was_there() -> None:
    upstream = ScriptedUpstream(says("from afar"))
    async with serving(upstream):
        url = f"http://127.0.0.1:{upstream.port}"
        read = Settings(upstreams=(Upstream(url=url, models=("far",)),))
        async with serving_app(Application(read, lambda: (ScriptedBackend(), "scripted")), read) as client:
            with pytest.raises(StartupError, match="no model 'other' yet"):
                client.app.reconfigure(Settings(upstreams=(Upstream(url=url, models=("other",)),)))
            await client.chat("hi", model="far").body()
    assert upstream.visits[-1].body["model"] == "far"


@pytest.mark.parametrize(
    ("upstreams", "fleets"),
    [
        ([((), "a:1"), ((), "b:1")], {"": ["a:1", "b:1"]}),
        ([(("m",), "a:1"), ((), "b:1")], {"m": ["a:1", "b:1"]}),
        ([(("m", "k"), "a:1"), (("k",), "b:1")], {"m": ["a:1"], "k": ["a:1", "b:1"]}),
        ([], {}),
    ],
)
def test_upstreams_are_replicas_of_one_model_unless_they_name_several(
    upstreams: list[tuple[tuple[str, ...], str]], fleets: dict[str, list[str]]
) -> None:
    named = tuple(Upstream(url=f"http://{address}", models=models) for models, address in upstreams)
    read = fleets_of(Settings(upstreams=named))
    assert {name: [each.address.name for each in fleet] for name, fleet in read.items()} == fleets
    assert all(each.models in ((), (name,)) for name, fleet in read.items() for each in fleet)


def test_an_upstream_that_does_not_say_which_of_several_models_it_has_cannot_be_used() -> None:
    urls = [Upstream(url="http://a:1", models=("m", "k")), Upstream(url="http://b:1")]
    with pytest.raises(StartupError, match="upstream 2 must say which models it has"):
        fleets_of(Settings(upstreams=tuple(urls)))


async def test_two_models_of_one_name_are_refused_at_the_start() -> None:
    upstream = Upstream(url="http://127.0.0.1:1", models=("scripted",))
    read = Settings(upstreams=(upstream,))
    app = Application(read, lambda: (ScriptedBackend(), "scripted"))
    told: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: dict[str, Any]) -> None:
        told.append(message)

    await app({"type": "lifespan"}, receive, send)
    assert told[0]["type"] == "lifespan.startup.failed"
    assert "two models have the same name" in told[0]["message"]
