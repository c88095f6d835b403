"""A client whose base URL lacks `/v1` is answered as one that has it."""

import json

import pytest
from tests.harness import serving

from corral.dialects.routes import DialectOptions, errors_at, table
from corral.engine.local.scripted import ScriptedBackend, replying


def backend() -> ScriptedBackend:
    return ScriptedBackend(replying(lambda _: "ok"))


async def test_they_answer_and_refuse_alike() -> None:
    async with serving(backend(), api_keys=("key",)) as client:
        key = {"Authorization": "Bearer key"}
        chat = {"messages": [{"role": "user", "content": "hi"}]}
        for method, path, body in (
            ("GET", "/models", None),
            ("GET", "/models/scripted", None),
            ("GET", "/models/other", None),
            ("POST", "/chat/completions", {}),
            ("PUT", "/chat/completions", {}),
            ("OPTIONS", "/chat/completions", None),
        ):
            long = client.send(method, f"/v1{path}", body, headers=key)
            short = client.send(method, path, body, headers=key)
            told = (await long.body()).replace(b"/v1", b"")
            assert (await short.body(), short.status) == (told, long.status), path
            assert short.headers.get("allow") == long.headers.get("allow")
        answer = await client.send("POST", "/chat/completions", chat, headers=key).json()
        assert answer["choices"][0]["message"]["content"] == "ok"
        stranger = client.send("POST", "/chat/completions", chat)
        assert json.loads(await stranger.body())["error"]["code"] == "invalid_api_key"


async def test_an_operators_paths_have_no_second_name() -> None:
    async with serving(backend()) as client:
        exchange = client.send("DELETE", "/requests/none")
        assert "there is nothing at" in (await exchange.json())["error"]["message"]


@pytest.mark.parametrize("path", sorted({route.path for route in table(DialectOptions())}))
def test_errors_there_are_told_as_with_it(path: str) -> None:
    routes = table(DialectOptions())
    for known in ((), routes):
        for below in ("", "/", "/deeper"):
            assert errors_at(path.removeprefix("/v1") + below, known) is errors_at(path + below, known)
