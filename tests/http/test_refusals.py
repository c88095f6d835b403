"""Whoever is not let in is counted once, by status and code, and logged once, without content."""

import json
import logging
from typing import Any

import pytest
import trio
import trio.testing
from tests.harness import Client, Exchange, Gate, serving
from tests.http.watch import opening

from corral.engine.local.scripted import ScriptedBackend, replying

CHAT = "/v1/chat/completions"
KEY = {"Authorization": "Bearer key"}
SECRET = "a word that nobody else may read"
TOOL = {"type": "function", "function": {"name": "look", "description": "Looks around in the garden."}}


def asking(**fields: Any) -> list[bytes]:
    return [json.dumps({"messages": [{"role": "user", "content": SECRET}], **fields}).encode()]


async def refused(client: Client) -> dict[str, dict[str, int]]:
    totals = (await client.send("GET", "/status/json", headers=KEY).json())["totals"]
    by: dict[str, dict[str, int]] = totals["refused_by"]
    assert totals["refused"] == sum(count for codes in by.values() for count in codes.values())
    return by


@pytest.mark.parametrize(
    ("request_", "status", "code", "param"),
    [
        ({"raw": [b"{" + SECRET.encode()]}, 400, "invalid_request", None),
        ({"raw": asking(n=0)}, 400, "invalid_request", "n"),
        ({"raw": asking(n=99)}, 400, "invalid_request", "n"),
        ({"raw": asking(logit_bias={"99999": 1})}, 400, "invalid_request", "logit_bias"),
        ({"raw": asking(), "headers": {"Authorization": "Bearer wrong"}}, 401, "unauthorized", None),
        ({"raw": asking(), "headers": {"Origin": "https://evil.example"}}, 403, "forbidden", None),
        ({"raw": asking(), "path": "/v1/chat"}, 404, "not_found", None),
        ({"method": "DELETE", "path": "/v1/requests/none"}, 404, "not_found", None),
        ({"method": "PUT"}, 405, "method_not_allowed", None),
        ({"raw": [b"x" * 1000] * 7}, 413, "payload_too_large", None),
        ({"raw": asking(), "headers": {"Content-Type": "text/plain"}}, 415, "unsupported_media_type", None),
    ],
)
async def test_a_refusal_is_counted_and_logged_once(
    request_: dict[str, Any], status: int, code: str, param: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    backend = ScriptedBackend(replying(lambda _: "ok"))
    with caplog.at_level(logging.INFO, "corral.requests"):
        async with serving(backend, api_keys=("key",), body_limit_bytes=6000) as client:
            given = {"method": "POST", "path": CHAT, **request_}
            given["headers"] = {**KEY, **given.get("headers", {})}
            exchange = client.send(given.pop("method"), path := given.pop("path"), **given)
            await exchange.body()
            assert exchange.status == status
            assert await refused(client) == {str(status): {code: 1}}
            metrics = (await client.send("GET", "/metrics", headers=KEY).body()).decode()
            assert f'corral_requests_refused_total{{code="{code}",status="{status}"}} 1.0' in metrics
    [line] = [entry.getMessage() for entry in caplog.records if entry.name == "corral.requests"]
    assert line.startswith(f"{exchange.headers['x-request-id']} refused status={status} code={code} ")
    assert f"client=127.0.0.1 method={request_.get('method', 'POST')} path={path!r}" in line
    assert line.endswith(f" param={'-' if param is None else repr(param)}")
    assert SECRET not in line


async def test_who_is_too_slow_to_ask_too_many_or_too_late_is_counted(
    mock_clock: trio.testing.MockClock,
) -> None:
    gate = Gate()
    async with (
        serving(ScriptedBackend(on_step=gate), slots=1, queue_requests=1, body_timeout_s=5) as client,
        opening(gate),
    ):
        waiting: list[Exchange] = []
        for _ in range(2):
            waiting.append(client.chat(stream=True))
            await waiting[-1].chunk()
        await client.chat().body()
        slow = client.send("POST", CHAT, raw=[b"{"], ends=False)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(6)
        await slow.body()
        assert await refused(client) == {"429": {"queue_full": 1}, "408": {"request_timeout": 1}}
        client.terminated.set()
        await trio.testing.wait_all_tasks_blocked()
        await client.chat().body()
        assert (await refused(client))["503"] == {"draining": 1}
        for exchange in waiting:
            exchange.leave()


async def test_what_is_refused_for_its_prompt_is_counted_and_logged_once_with_its_field(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "corral.requests"):
        async with serving(ScriptedBackend(ctx_tokens=128), slots=1) as client:
            exchange = client.send("POST", CHAT, raw=asking(tools=[TOOL]))
            await exchange.body()
            assert exchange.status == 400
            await client.service.wait_settled()
            assert await refused(client) == {"400": {"context_exceeded": 1}}
            assert client.service.ledger.totals.by_outcome == {("chat", "refused"): 1}
    [line] = [entry.getMessage() for entry in caplog.records if entry.name == "corral.requests"]
    assert " outcome=refused " in line
    assert line.endswith(" error=context_exceeded param='messages'")
    assert SECRET not in line


async def test_what_was_accepted_is_no_refusal_however_it_ends() -> None:
    def fail(_: str) -> str:
        raise ZeroDivisionError

    async with serving(ScriptedBackend(replying(fail))) as client:
        answer = client.chat()
        await answer.body()
        assert answer.status == 503
        await client.service.wait_settled()
        assert await refused(client) == {}
        assert client.service.ledger.totals.by_outcome == {("chat", "failed"): 1}
