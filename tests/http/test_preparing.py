"""A request while its prompt is being written: seen, counted, kept alive and let go as in any state."""

import json
from typing import Any

import pytest
import trio
import trio.testing
from tests.dialects.plain import with_plain
from tests.harness import Client, Exchange, serving

from corral.dialects.routes import DialectOptions, Route
from corral.engine.local.prompts.contract import Prompt
from corral.engine.local.prompts.inline import InlinePrompts
from corral.engine.local.prompts.writer import PromptWriter
from corral.engine.local.scripted import ScriptedBackend, replying
from corral.errors import InvalidRequest
from corral.request import GenerationRequest

CHAT = "/v1/chat/completions"
KEEPALIVE_S = 5.0


class HeldPrompts(InlinePrompts):
    """Writes a prompt once it is let, and refuses those that ask for it."""

    def __init__(self, writer: PromptWriter) -> None:
        super().__init__(writer)
        self.gate = trio.Event()
        self.held = 0

    async def prompt(self, request: GenerationRequest, *, client: str, limit_tokens: int) -> Prompt:
        self.held += 1
        try:
            await self.gate.wait()
        finally:
            self.held -= 1
        if request.messages[0].content == "REFUSE":
            raise InvalidRequest("the template does not like it", param="messages")
        return await super().prompt(request, client=client, limit_tokens=limit_tokens)


class Held(ScriptedBackend):
    """A backend whose prompts are held."""

    def __init__(self) -> None:
        super().__init__(replying(lambda _: "☃"))
        self.prompts = HeldPrompts(PromptWriter(self.model.chat_format, self.model.vocabulary))
        self.model.prompts = self.prompts

    async def until_held(self, count: int = 1) -> None:
        while self.prompts.held < count:
            await trio.lowlevel.checkpoint()


async def status(client: Client) -> Any:
    return await client.send("GET", "/status/json").json()


async def test_a_request_is_seen_while_it_is_prepared(mock_clock: trio.testing.MockClock) -> None:
    backend = Held()
    async with serving(backend) as client:
        answer = client.chat()
        await backend.until_held()
        mock_clock.jump(2)
        shown = await status(client)
        [request] = shown["requests"]
        assert (request["state"], request["preparing_ms"], request["prompt_tokens"]) == ("preparing", 2000, 0)
        assert (shown["queue"], shown["server"]["phase"], request["lanes"]) == ([], "idle", [])
        metrics = (await client.send("GET", "/metrics").body()).decode()
        assert 'corral_requests_live{state="preparing"} 1.0' in metrics
        backend.prompts.gate.set()
        assert (await answer.json())["usage"]["prompt_tokens"] > 0
        await client.service.wait_settled()
        [row] = (await status(client))["history"]
        assert (row["preparing_ms"], row["queue_ms"]) == (2000, 0)


@pytest.mark.parametrize("streams", [True, False])
async def test_who_leaves_while_it_is_prepared_is_out_at_once(streams: bool) -> None:
    backend = Held()
    async with serving(backend, slots=1, queue_requests=0) as client:
        for _ in range(2):
            leaving = client.chat(stream=streams)
            await backend.until_held()
            leaving.leave()
            await leaving.is_over.wait()
            assert not client.service.ledger.live
            await trio.testing.wait_all_tasks_blocked()
            assert not backend.prompts.held, "nothing is written for it any more"
        assert client.service.ledger.totals.by_outcome == {("chat", "disconnected"): 2}


async def test_an_operator_can_stop_it(mock_clock: trio.testing.MockClock) -> None:
    backend = Held()
    async with serving(backend) as client:
        answer = client.chat()
        await backend.until_held()
        [request] = (await status(client))["requests"]
        stop = client.send("DELETE", f"/v1/requests/{request['id']}")
        assert (await stop.json())["stopped"]
        assert (await answer.json())["error"]["code"] == "stopped_by_operator"
        assert answer.status == 503


async def test_the_queue_is_full_of_those_that_are_prepared() -> None:
    backend = Held()
    async with serving(backend, slots=2, queue_requests=1) as client:
        taken = [client.chat(stream=True) for _ in range(3)]
        await backend.until_held(3)
        refused = client.chat()
        assert (await refused.json())["error"]["code"] == "rate_limit_exceeded"
        assert refused.status == 429
        backend.prompts.gate.set()
        for stream in taken:
            assert (await stream.body()).endswith(b"[DONE]\n\n")


def asking(path: str, text: str) -> tuple[Any, dict[str, str]]:
    """A streamed request of an API, and its headers."""
    if path == "/plain":
        return text, {"Plain-Stream": "yes"}
    if path == "/v1/responses":
        return {"model": "scripted", "input": text, "stream": True}, {}
    body = {"model": "scripted", "messages": [{"role": "user", "content": text}], "stream": True}
    return (body | {"max_tokens": 50} if path == "/v1/messages" else body), {}


def send(client: Client, path: str, text: str) -> Exchange:
    body, headers = asking(path, text)
    raw = [body.encode()] if isinstance(body, str) else [json.dumps(body).encode()]
    return client.send("POST", path, raw=raw, headers=headers)


GENERATING = [route.path for route in with_plain(DialectOptions()) if isinstance(route, Route)]
ALL = pytest.mark.parametrize("path", GENERATING)


@ALL
async def test_what_is_refused_soon_is_refused_before_the_headers(path: str) -> None:
    backend = Held()
    backend.prompts.gate.set()
    async with serving(backend, routes=with_plain) as client:
        refused = send(client, path, "REFUSE")
        assert b"the template does not like it" in await refused.body()
        assert (refused.status, refused.headers["content-type"]) == (400, "application/json")


@ALL
async def test_what_is_refused_late_is_refused_in_the_stream(
    path: str, mock_clock: trio.testing.MockClock
) -> None:
    backend = Held()
    async with serving(backend, routes=with_plain, stream_keepalive_s=KEEPALIVE_S) as client:
        refused = send(client, path, "REFUSE")
        await backend.until_held()
        await trio.testing.wait_all_tasks_blocked()
        assert refused.status is None
        mock_clock.jump(KEEPALIVE_S)
        assert (await refused.chunk()).endswith(b"\n\n")
        await refused.started()
        assert refused.headers["content-type"].startswith("text/event-stream")
        for _ in range(2):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(KEEPALIVE_S)
            assert await refused.chunk()
        backend.prompts.gate.set()
        assert b"the template does not like it" in await refused.body()
        await client.service.wait_settled()
        [((_, outcome), count)] = client.service.ledger.totals.by_outcome.items()
        assert (outcome, count) == ("refused", 1)
        assert client.service.ledger.totals.refused == {(400, "invalid_request"): 1}


@ALL
async def test_a_stream_that_began_before_its_prompt_was_written_is_whole(
    path: str, mock_clock: trio.testing.MockClock
) -> None:
    backend = Held()
    async with serving(backend, routes=with_plain, stream_keepalive_s=KEEPALIVE_S) as client:
        stream = send(client, path, "hello")
        await backend.until_held()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(KEEPALIVE_S)
        await stream.chunk()
        backend.prompts.gate.set()
        assert "☃" in (await stream.body()).decode()


async def test_a_body_that_still_arrives_is_refused_when_the_server_shuts_down() -> None:
    async with serving(Held(), status_key="key") as client:
        half = client.send("POST", CHAT, raw=[b'{"messages":'], ends=False)
        form = client.send("POST", "/status/key", raw=[b"key="], ends=False)
        await trio.testing.wait_all_tasks_blocked()
        client.terminated.set()
        assert (await half.json())["error"]["code"] == "server_draining"
        assert (await form.json())["error"]["code"] == "server_draining"
        assert (half.status, form.status) == (503, 503)
        late = client.send("POST", CHAT, raw=[b'{"messages":'], ends=False)
        assert (await late.json())["error"]["code"] == "server_draining"


async def test_prompts_that_are_only_measured_are_bounded_too_and_end_with_the_server() -> None:
    backend = Held()
    asked = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]}
    async with serving(backend, queue_requests=2) as client:
        measured = [client.send("POST", "/v1/messages/count_tokens", asked) for _ in range(2)]
        await backend.until_held(2)
        refused = client.send("POST", "/v1/messages/count_tokens", asked)
        assert (await refused.json())["error"]["type"] == "rate_limit_error"
        assert refused.status == 429
        measured.pop().leave()
        client.terminated.set()
        assert "shutting down" in (await measured[0].json())["error"]["message"]
        assert measured[0].status == 503
