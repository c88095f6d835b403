"""Web apps of other origins: those that are listed use the API from a browser, and the others do not."""

from typing import Any

import pytest
from tests.harness import serving

from corral.engine.local.scripted import ScriptedBackend, replying

APP = "https://chat.example.org"
KEYS: dict[str, Any] = {"allowed_origins": (APP, "app://obsidian.md"), "api_keys": ("sesame",)}
PREFLIGHT = {
    "Origin": APP,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
    "Sec-Fetch-Site": "cross-site",
    "Sec-Fetch-Mode": "cors",
}
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def backend() -> ScriptedBackend:
    return ScriptedBackend(replying(lambda _: "yes"))


async def test_a_listed_app_asks_without_its_key_and_then_streams_with_it() -> None:
    async with serving(backend(), **KEYS) as client:
        asked = client.send("OPTIONS", "/v1/chat/completions", headers=PREFLIGHT)
        assert await asked.body() == b""
        assert asked.status == 204
        assert asked.headers["access-control-allow-origin"] == APP
        assert "POST" in asked.headers["access-control-allow-methods"].split(", ")
        assert asked.headers["access-control-allow-headers"] == "authorization,content-type,x-stainless-os"
        headers = {"Origin": APP, "Sec-Fetch-Site": "cross-site", "Authorization": "Bearer sesame"}
        answer = client.send("POST", "/v1/chat/completions", {**BODY, "stream": True}, headers=headers)
        assert b"[DONE]" in await answer.body()
        assert answer.headers["access-control-allow-origin"] == APP
        assert "Origin" in answer.headers["vary"]
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers, "a cookie is never for an app"


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/v1/models", {"GET"}), ("/v1/responses/resp_1", {"GET", "DELETE"}), ("/v1/messages", {"POST"})],
)
async def test_a_preflight_names_all_that_a_path_takes(path: str, methods: set[str]) -> None:
    async with serving(backend(), **KEYS) as client:
        asked = client.send("OPTIONS", path, headers=PREFLIGHT)
        await asked.started()
        assert methods <= set(asked.headers["access-control-allow-methods"].split(", "))


async def test_a_listed_app_can_read_why_it_is_refused() -> None:
    async with serving(backend(), **KEYS) as client:
        answer = client.send("POST", "/v1/chat/completions", BODY, headers={"Origin": APP})
        assert (await answer.json())["error"]["code"] == "invalid_api_key"
        assert answer.status == 401
        assert answer.headers["access-control-allow-origin"] == APP


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://chat.example.org",
        f"{APP}:8443",
        f"{APP}.evil.example",
        "null",
        (APP, APP),
    ],
)
@pytest.mark.parametrize("method", ["OPTIONS", "POST"])
async def test_nobody_else_is_let_in(method: str, origin: Any) -> None:
    headers = {**PREFLIGHT, "Origin": origin, "Authorization": "Bearer sesame"}
    async with serving(backend(), **KEYS) as client:
        answer = client.send(method, "/v1/chat/completions", BODY, headers=headers)
        assert (await answer.json())["error"]["code"] == "forbidden"
        assert answer.status == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/status/json"),
        ("GET", "/status/events"),
        ("GET", "/metrics"),
        ("DELETE", "/v1/requests/chatcmpl-1"),
        ("OPTIONS", "/v1/requests/chatcmpl-1"),
    ],
)
async def test_what_is_an_operators_is_for_no_app(method: str, path: str) -> None:
    headers = {**PREFLIGHT, "Authorization": "Bearer sesame"}
    async with serving(backend(), **KEYS) as client:
        answer = client.send(method, path, headers=headers)
        await answer.started()
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers


async def test_every_origin_may_be_let_in_by_those_who_have_keys() -> None:
    async with serving(backend(), allowed_origins=("*",), api_keys=("sesame",)) as client:
        headers = {"Origin": "https://any.example", "Authorization": "Bearer sesame"}
        answer = client.send("GET", "/v1/models", headers=headers)
        await answer.body()
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "https://any.example"


async def test_without_a_list_no_answer_varies_by_origin() -> None:
    async with serving(backend()) as client:
        answer = client.send("GET", "/v1/models")
        await answer.body()
        assert "vary" not in answer.headers


@pytest.mark.parametrize("host", ["host.docker.internal:8000", "host.containers.internal"])
async def test_a_container_may_use_its_name_for_this_machine(host: str) -> None:
    async with serving(backend()) as client:
        answer = client.send("POST", "/v1/chat/completions", BODY, headers={"Host": host})
        await answer.body()
        assert answer.status == 200
