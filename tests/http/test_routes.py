"""A second dialect is served like the first, and fails in its own words wherever it fails."""

from typing import Any

import pytest
from tests.dialects.plain import with_plain
from tests.harness import Gate, serving

from corral.engine.local.scripted import ScriptedBackend, replying


def echo() -> ScriptedBackend:
    return ScriptedBackend(replying(lambda text: text.split("user\n")[-1].split("\n")[0].upper()))


async def test_it_answers_and_streams_with_the_head_and_the_headers_it_was_given() -> None:
    async with serving(echo(), routes=with_plain) as client:
        assert await client.send("POST", "/plain", raw=[b"hi"]).json() == {"text": "HI"}
        stream = client.send("POST", "/plain", raw=[b"hi"], headers={"Plain-Stream": "yes"})
        frames = (await stream.body()).decode().split("\n\n")
        name, begin = frames[0].split("\n")
        assert name == "event: begin"
        assert begin.startswith('data: {"id":"plain-')
        await client.service.wait_settled()
        prompt = client.service.ledger.totals.tokens.prompt // 2
        assert begin.endswith(f'"prompt":{prompt}}}')
        assert frames[-2:] == ["event: end\ndata: {}", ""]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"raw": [b""]}, 400),
        ({"raw": [b"x" * 5000]}, 400),
        ({"raw": [b"hi"], "headers": {"Authorization": "Bearer wrong"}}, 401),
        ({"raw": [b"hi"], "headers": {"host": "evil.example"}}, 403),
        ({"raw": [b"hi"], "headers": {"Origin": "https://evil.example"}}, 403),
        ({"raw": [b"hi"], "path": "/plain/nothing"}, 404),
        ({"method": "DELETE"}, 405),
        ({"raw": [b"hi"] * 3000}, 413),
        ({"raw": [b"\xff"]}, 500),
    ],
)
async def test_every_error_before_the_handler_is_told_in_its_words(
    request_: dict[str, Any], status: int
) -> None:
    async with serving(echo(), routes=with_plain, api_keys=("key",), body_limit_bytes=5500) as client:
        given = {"method": "POST", "path": "/plain", **request_}
        headers = {"Authorization": "Bearer key", **given.pop("headers", {})}
        exchange = client.send(given.pop("method"), given.pop("path"), headers=headers, **given)
        body = await exchange.json()
        assert exchange.status == status
        assert body["trouble"]
        assert body["request"] == exchange.headers["x-request-id"] == exchange.headers["plain-id"]
        other = client.send("POST", "/v1/chat/completions", raw=[b"{"], headers={"Authorization": "Bearer x"})
        assert (await other.json())["error"]["code"] == "invalid_api_key", "the others go on in theirs"


async def test_a_full_queue_and_a_server_that_goes_are_told_in_its_words() -> None:
    gate = Gate()
    async with serving(ScriptedBackend(on_step=gate), routes=with_plain, slots=1, queue_requests=1) as client:
        streams = [client.chat(stream=True), client.chat(stream=True)]
        for stream in streams:
            await stream.chunk()
        full = client.send("POST", "/plain", raw=[b"hi"])
        assert "trouble" in await full.json()
        assert full.status == 429
        assert int(full.headers["retry-after"]) >= 1
        client.terminated.set()
        for stream in streams:
            stream.leave()
        gate.open()
        await client.service.wait_idle()
        gone = client.send("POST", "/plain", raw=[b"hi"])
        assert "trouble" in await gone.json()
        assert gone.status == 503
