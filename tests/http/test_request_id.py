"""A request keeps the name that it came with: in the answer, in the log and on /status."""

import logging

import pytest
from tests.harness import serving

from corral.engine.local.scripted import ScriptedBackend, replying

CHAT = "/v1/chat/completions"
ASKED = {"messages": [{"role": "user", "content": "hi"}]}


def backend() -> ScriptedBackend:
    return ScriptedBackend(replying(lambda _: "ok"))


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", CHAT, ASKED, 200),
        ("POST", CHAT, {**ASKED, "stream": True}, 200),
        ("POST", CHAT, {}, 400),
        ("GET", "/v1/models", None, 200),
        ("GET", "/nothing", None, 404),
    ],
)
async def test_it_comes_back_with_every_answer(
    method: str, path: str, body: dict[str, object] | None, status: int
) -> None:
    async with serving(backend()) as client:
        exchange = client.send(method, path, body, headers={"X-Request-Id": "proxy-17:a/b"})
        await exchange.body()
        assert (exchange.status, exchange.headers["x-request-id"]) == (status, "proxy-17:a/b")


@pytest.mark.parametrize("given", ["", "x" * 129, "two words", "line\tend", "ümlaut"])
async def test_one_that_will_not_do_is_replaced(given: str) -> None:
    async with serving(backend()) as client:
        exchange = client.send("GET", "/v1/models", headers={"X-Request-Id": given})
        await exchange.body()
        assert exchange.headers["x-request-id"].startswith("req_")


async def test_the_log_and_the_status_know_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "corral.requests"):
        async with serving(backend()) as client:
            await client.send("POST", CHAT, ASKED, headers={"X-Request-Id": "trace-1"}).body()
            await client.service.wait_settled()
            await client.send("POST", CHAT, {}, headers={"X-Request-Id": "trace-2"}).body()
            status = await client.send("GET", "/status/json").json()
    assert [row["request_id"] for row in status["history"]] == ["trace-1"]
    assert [request["request_id"] for request in status["recent"]] == ["trace-1"]
    settled, refused = [entry.getMessage() for entry in caplog.records if entry.name == "corral.requests"]
    assert " request_id=trace-1 " in settled
    assert refused.startswith("trace-2 refused ")
