"""Models that are loaded when they are wanted, and leave when others need their memory."""

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing
from tests.harness import GATE_S, Client, Gate, serving_app
from tests.http.apis import APIS, ASK_OF_TEXTS, CHAT, Api, end_of, end_of_whole, frames, text_of

from corral.application import Application
from corral.engine.contract import Capacity
from corral.engine.local.backend import Chunk
from corral.engine.local.engine import LocalEngine
from corral.engine.local.options import EngineOptions
from corral.engine.local.scripted import ScriptedBackend, embeds, replying
from corral.engine.shelf.engine import Opened
from corral.errors import StartupError
from corral.settings import Settings
from corral.wiring.shelf import Shelved

SLOTS = 2
SOON_S = 20.0
"""What takes milliseconds has not happened after so long."""


@dataclass
class Disk:
    """Where a model lies: it says its name, and can be held up while it is loaded, or be broken."""

    name: str
    size_bytes: int = 10
    loads_at_start: bool = False
    on_step: Callable[[Sequence[Chunk]], None] = lambda chunks: None
    opened: int = 0
    closed: int = 0
    is_broken: bool = False
    backends: list[ScriptedBackend] = field(default_factory=list)
    has_begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    gate: threading.Event = field(default_factory=threading.Event)
    may_close: threading.Event = field(default_factory=threading.Event)
    was_unwanted: bool = False

    def __post_init__(self) -> None:
        self.gate.set()
        self.may_close.set()

    def hold(self) -> None:
        self.gate.clear()

    def let(self) -> None:
        self.gate.set()

    async def began(self) -> None:
        """Until a thread loads it once more."""
        assert await trio.to_thread.run_sync(lambda: self.has_begun.acquire(timeout=GATE_S))

    def open(self, is_wanted: Callable[[], bool]) -> Opened:
        self.opened += 1
        self.has_begun.release()
        while not self.gate.wait(0.001):
            if not is_wanted():
                self.was_unwanted = True
                raise StartupError("nobody wants it any more")
        if self.is_broken:
            raise StartupError(f"/srv/{self.name}.gguf is truncated")
        backend = ScriptedBackend(
            replying(lambda _: f"I am {self.name}"), embeds=embeds(dimensions=4), on_step=self.on_step
        )
        self.backends.append(backend)

        def close() -> None:
            assert self.may_close.wait(GATE_S)
            self.closed += 1
            backend.close()

        return Opened(LocalEngine(backend, EngineOptions(slots=SLOTS)), close)

    def shelved(self, settings: Settings) -> Shelved:
        expected = Capacity(SLOTS, 2048, 2048)
        return Shelved(self.name, settings, expected, self.size_bytes, self.open, self.loads_at_start)


@asynccontextmanager
async def shelf(*disks: Disk, limit_bytes: int = 20, **settings: Any) -> AsyncIterator[Client]:
    """At the end nothing is left in memory."""
    settings.setdefault("stream_interval_ms", 0)
    read = Settings(models_memory_bytes=limit_bytes, **settings)
    app = Application(read, None, find_models=lambda: [disk.shelved(read) for disk in disks])
    try:
        async with serving_app(app, read) as client:
            yield client
    finally:
        for disk in disks:
            disk.let()
            disk.may_close.set()
    for disk in disks:
        assert disk.closed == len(disk.backends)
        assert all(backend.open_samplers == 0 for backend in disk.backends)


def states(client: Client) -> list[str]:
    return [service.residence.state for service in client.models.services if service.residence is not None]


async def until(client: Client, *wanted: str) -> None:
    """Until the models are so; memory is freed in a thread."""
    with trio.fail_after(SOON_S):
        while states(client) != list(wanted):
            await trio.testing.wait_all_tasks_blocked(0.001)


async def said(client: Client, model: str, **fields: Any) -> Any:
    answer = await client.chat("who?", model=model, **fields).json()
    return answer["choices"][0]["message"]["content"] if "choices" in answer else answer


async def test_a_model_is_loaded_with_the_first_request_that_names_it_and_once() -> None:
    a, b = Disk("a", loads_at_start=True), Disk("b")
    async with shelf(a, b) as client:
        assert (a.opened, b.opened) == (1, 0)
        assert await said(client, "b") == "I am b"
        assert await said(client, "b") == "I am b"
        assert await said(client, "a") == "I am a"
        assert (a.opened, b.opened) == (1, 1)


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
async def test_a_stream_has_its_head_at_once_and_its_text_when_the_model_is_there(api: Api) -> None:
    disk = Disk("a")
    disk.hold()
    async with shelf(disk) as client:
        exchange = api.send(client, "who?", stream=True, return_progress=True)
        await disk.began()
        first = await exchange.chunk()
        assert exchange.status == 200
        assert frames(first)
        disk.let()
        assert text_of(api, first + await exchange.body()) == "I am a"


async def test_many_who_wait_for_a_model_are_told_so_and_share_one_load() -> None:
    disk = Disk("a")
    disk.hold()
    async with shelf(disk) as client:
        streams = [client.chat("who?", stream=True, return_progress=True) for _ in range(4)]
        await disk.began()
        heard = []
        for stream in streams:
            raw = b""
            while b"loading_progress" not in raw:
                raw += await stream.chunk()
            heard.append(raw)
        assert b'"loading_progress":{"model":"a"}' in heard[0]
        told = await client.send("GET", "/status/json").json()
        assert [request["state"] for request in told["requests"]] == ["preparing"] * 4
        assert [request["doing"] for request in told["requests"]] == ["loading"] * 4
        [model] = told["models"]
        assert (model["state"], model["live"], model["memory_bytes"]) == ("loading", 4, 10)
        disk.let()
        for raw, stream in zip(heard, streams, strict=True):
            assert text_of(CHAT, raw + await stream.body()) == "I am a"
        assert disk.opened == 1
        told = await client.send("GET", "/status/json").json()
        assert told["models"][0]["state"] == "loaded"


@pytest.mark.parametrize(
    ("api", "says"),
    [(APIS[1], b'"loading_progress":{"model":"a"}'), (APIS[2], b'"loading_progress":{"model":"a"}')],
    ids=["messages", "responses"],
)
async def test_keepalives_say_what_is_waited_for(api: Api, says: bytes) -> None:
    disk = Disk("a")
    disk.hold()
    async with shelf(disk, stream_keepalive_s=0.01) as client:
        exchange = api.send(client, "who?", stream=True)
        raw = b""
        with trio.fail_after(SOON_S):
            while says not in raw:
                raw += await exchange.chunk()
        disk.let()
        raw += await exchange.body()
    assert text_of(api, raw) == "I am a"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_is_gone_at_once_and_the_load_goes_on(stream: bool) -> None:
    disk = Disk("a")
    disk.hold()
    async with shelf(disk) as client:
        exchange = client.chat("who?", stream=stream)
        await disk.began()
        exchange.leave()
        with trio.fail_after(SOON_S):
            await exchange.is_over.wait()
            await client.service.wait_settled()
        assert states(client) == ["loading"]
        assert not client.service.has_users()
        assert client.service.ledger.totals.by_outcome == {("chat", "disconnected"): 1}
        disk.let()
        await until(client, "loaded")
        assert await said(client, "a") == "I am a"
        assert disk.opened == 1


async def test_an_operator_stops_one_that_waits_for_its_model() -> None:
    disk = Disk("a")
    disk.hold()
    async with shelf(disk) as client:
        exchange = client.chat("who?", stream=True)
        await disk.began()
        [id] = client.service.ledger.live
        await client.send("DELETE", f"/v1/requests/{id}").json()
        assert end_of(CHAT, await exchange.body()) == "error stopped_by_operator"
        disk.let()


async def test_who_waits_for_a_model_counts_in_the_queue() -> None:
    disk = Disk("a")
    disk.hold()
    async with shelf(disk, queue_requests=1) as client:
        waiting = [client.chat("who?") for _ in range(SLOTS + 1)]
        await disk.began()
        refused = client.chat("who?")
        await refused.body()
        assert refused.status == 429
        disk.let()
        for exchange in waiting:
            await exchange.body()
            assert exchange.status == 200


async def test_a_deadline_passes_while_the_model_is_loaded(autojump_clock: trio.testing.MockClock) -> None:
    disk = Disk("a")
    disk.hold()
    async with shelf(disk, request_deadline_s=5.0) as client:
        exchange = client.chat("who?")
        answer = await exchange.json()
        assert exchange.status == 504
        assert end_of_whole(CHAT, answer) == "error deadline_exceeded"
        disk.let()


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_load_that_fails_fails_those_who_wait_once_and_the_next_request_tries_again(
    api: Api, stream: bool
) -> None:
    disk = Disk("a", is_broken=True)
    disk.hold()
    async with shelf(disk) as client:
        waiting = [api.send(client, "who?", stream=stream) for _ in range(2)]
        await disk.began()
        await trio.testing.wait_all_tasks_blocked()
        assert client.service.live == 2
        disk.let()
        for exchange in waiting:
            body = await exchange.body()
            assert b"could not be loaded" in body
            assert b"/srv" not in body
            if stream:
                assert exchange.status == 200
                assert end_of(api, body).startswith("error")
            else:
                assert exchange.status == 503
        assert disk.opened == 1
        told = await client.send("GET", "/status/json").json()
        assert told["models"][0]["state"] == "failed"
        assert "truncated" in told["models"][0]["reason"]
        assert not told["server"]["failed"]
        disk.is_broken = False
        assert await said(client, "a") == "I am a"
        assert disk.opened == 2


async def test_the_least_recently_used_model_leaves_for_one_that_is_wanted() -> None:
    a, b, c = Disk("a"), Disk("b"), Disk("c")
    async with shelf(a, b, c) as client:
        for name in ("a", "b", "a", "c"):
            assert await said(client, name) == f"I am {name}"
        await until(client, "loaded", "not loaded", "loaded")
        assert await said(client, "b") == "I am b"
        await until(client, "not loaded", "loaded", "loaded")
        assert [disk.opened for disk in (a, b, c)] == [1, 2, 1]


async def test_a_model_in_use_never_leaves_and_who_needs_its_place_is_told_so() -> None:
    gate = Gate()
    a, b = Disk("a", on_step=gate), Disk("b")
    async with shelf(a, b, limit_bytes=15) as client:
        running = client.chat("who?", model="a", stream=True)
        await gate.wait_arrived()  # the step that warms it up
        gate.let()
        await gate.wait_arrived()
        refused = client.chat("who?", model="b")
        error = (await refused.json())["error"]
        assert (refused.status, error["code"]) == (503, "server_overloaded")
        assert "'b'" in error["message"]
        assert "'a'" in error["message"]
        assert refused.headers["retry-after"] == "5"
        gate.open()
        assert text_of(CHAT, await running.body()) == "I am a"
        await client.models.wait_idle()
        assert await said(client, "b") == "I am b"
        assert states(client) == ["not loaded", "loaded"]


async def test_a_model_that_is_being_loaded_does_not_leave_though_nobody_waits_for_it() -> None:
    a, b = Disk("a"), Disk("b")
    async with shelf(a, b, limit_bytes=15) as client:
        assert await said(client, "a") == "I am a"
        b.hold()
        for_b = client.chat("who?", model="b", stream=True)
        await b.began()
        for_b.leave()
        await for_b.is_over.wait()
        refused = client.chat("who?", model="a")
        await refused.body()
        assert refused.status == 503
        b.let()
        await until(client, "not loaded", "loaded")
        assert await said(client, "a") == "I am a"


async def test_a_model_that_is_wanted_while_it_leaves_comes_back_when_its_memory_is_free() -> None:
    a, b, c = Disk("a"), Disk("b"), Disk("c")
    async with shelf(a, b, c) as client:
        for name in ("a", "b"):
            assert await said(client, name) == f"I am {name}"
        a.may_close.clear()
        for_c = client.chat("who?", model="c")
        await until(client, "leaving", "loaded", "loading")
        for_a = client.chat("who?", model="a")
        gone = client.chat("who?", model="a", stream=True)
        await gone.chunk()
        await until(client, "loading", "not loaded", "loading")
        assert (a.opened, c.opened) == (1, 0), "their memory is not free yet"
        gone.leave()
        await gone.is_over.wait()
        a.may_close.set()
        for exchange, name in ((for_a, "a"), (for_c, "c")):
            answer = await exchange.json()
            assert answer["choices"][0]["message"]["content"] == f"I am {name}"
        assert states(client) == ["loaded", "not loaded", "loaded"]
        assert [disk.opened for disk in (a, b, c)] == [2, 1, 1]


async def test_a_model_whose_engine_is_lost_is_loaded_anew_for_the_next_request() -> None:
    is_broken = True

    def breaks(chunks: Sequence[Chunk]) -> None:
        if is_broken:
            raise RuntimeError("the device is gone")

    disk, beside = Disk("a", on_step=breaks), Disk("b")
    async with shelf(disk, beside) as client:
        assert (await said(client, "a"))["error"]["code"] == "engine_failed"
        await client.models.wait_idle()
        told = await client.send("GET", "/status/json").json()
        assert [model["state"] for model in told["models"]] == ["failed", "not loaded"]
        is_broken = False
        assert await said(client, "a") == "I am a"
        assert (disk.opened, disk.closed) == (2, 1)
        assert states(client) == ["loaded", "not loaded"]


async def test_models_that_fit_together_are_loaded_one_at_a_time() -> None:
    a, b = Disk("a"), Disk("b")
    a.hold()
    async with shelf(a, b) as client:
        for_a = client.chat("who?", model="a")
        await a.began()
        for_b = client.chat("who?", model="b")
        await trio.testing.wait_all_tasks_blocked()
        assert (b.opened, states(client)) == (0, ["loading", "loading"])
        a.let()
        for exchange in (for_a, for_b):
            await exchange.body()
            assert exchange.status == 200


@pytest.mark.parametrize(("path", "body"), ASK_OF_TEXTS)
async def test_what_tells_of_texts_loads_the_model_too(path: str, body: dict[str, Any]) -> None:
    disk = Disk("a")
    async with shelf(disk) as client:
        exchange = client.send("POST", path, {**body, "model": "a"})
        answer = await exchange.json()
        assert exchange.status == 200, answer
        assert disk.opened == 1
        await trio.testing.wait_all_tasks_blocked()
        assert not client.service.has_users()


async def test_what_only_the_model_can_tell_is_refused_once_it_is_there() -> None:
    disk = Disk("a")
    async with shelf(disk) as client:
        exchange = client.send("POST", "/v1/embeddings", {"input": "ab", "model": "a", "dimensions": 99})
        answer = await exchange.json()
        assert exchange.status == 400
        assert answer["error"]["param"] == "dimensions"
        assert disk.opened == 1


async def test_props_and_models_tell_what_is_expected_of_one_that_is_not_loaded() -> None:
    disk = Disk("a")
    async with shelf(disk) as client:
        props = await client.send("GET", "/props").json()
        models = await client.send("GET", "/v1/models").json()
        metrics = (await client.send("GET", "/metrics").body()).decode()
        assert (props["slots"], props["request_ctx_tokens"], props["chat_template"]) == (SLOTS, 2048, None)
        assert models["data"][0]["max_model_len"] == 2048
        assert 'corral_model_loaded{model="a"} 0.0' in metrics
        assert disk.opened == 0


async def test_a_shutdown_does_not_wait_for_a_model_that_is_being_loaded() -> None:
    disk = Disk("a")
    disk.hold()
    async with shelf(disk, drain_s=0.0) as client:
        exchange = client.chat("who?", stream=True)
        await disk.began()
        client.terminated.set()
        assert end_of(CHAT, await exchange.body()) == "error server_shutdown"
    assert disk.was_unwanted


async def started(*disks: Disk, limit_bytes: int = 20) -> str:
    """What a start says that fails."""
    read = Settings(models_memory_bytes=limit_bytes)
    app = Application(read, None, find_models=lambda: [disk.shelved(read) for disk in disks])
    told: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: dict[str, Any]) -> None:
        told.append(message)

    await app({"type": "lifespan"}, receive, send)
    assert told[0]["type"] == "lifespan.startup.failed"
    return str(told[0]["message"])


async def test_a_start_fails_where_a_model_never_fits_or_those_for_the_start_do_not() -> None:
    assert "'a' needs" in await started(Disk("a", 30))
    two = [Disk(name, 12, loads_at_start=True) for name in "ab"]
    assert "need" in await started(*two)
    assert "first-use" in await started(*two)
    broken = Disk("a", loads_at_start=True, is_broken=True)
    assert await started(broken) == "a cannot be loaded: /srv/a.gguf is truncated"
