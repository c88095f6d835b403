"""Who gets what: keys, content, foreign origins and names, and that every route is accounted for."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.engine.upstream.scripted import ScriptedUpstream
from tests.harness import Client, Gate, serving
from tests.http.test_models import several
from tests.http.test_upstream import front, says_hello
from tests.http.watch import opening

from corral.books.outcome import Outcome
from corral.engine.local.scripted import ScriptedBackend, replying

DOCS = Path(__file__).parents[2] / "docs"
SECRET = "sesquipedalian"
PROXIED = {"X-Forwarded-For": "203.0.113.9"}
ROUTES = [
    ("GET", "/"),
    ("GET", "/status"),
    ("GET", "/status/json"),
    ("GET", "/status/events"),
    ("POST", "/status/key"),
    ("GET", "/metrics"),
    ("GET", "/props"),
    ("GET", "/health"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/scripted"),
    ("POST", "/v1/chat/completions"),
    ("DELETE", "/v1/requests/chatcmpl-1"),
    ("DELETE", "/v1/requests/chatcmpl-1/thinking"),
    ("GET", "/static/status/main.js"),
    ("GET", "/robots.txt"),
]


def secretive() -> ScriptedBackend:
    return ScriptedBackend(replying(lambda _: SECRET * 3))


async def everything(client: Client, headers: dict[str, str]) -> bytes:
    """Every byte the operator's routes send somebody, with a request that runs and one that is over."""
    before = client.send("GET", "/status/events", headers=headers)
    await before.started()
    if before.status == 200:
        await before.chunk()
    await client.chat(SECRET).json()
    await client.service.wait_settled()
    paths = ("/status/json", "/metrics", "/props", "/health", "/status")
    parts = [await client.send("GET", path, headers=headers).body() for path in paths]
    events = client.send("GET", "/status/events", headers=headers)
    parts.append(await events.chunk())
    if before.status == 200:
        while b"event: finished" not in parts[-1]:
            parts.append(await before.chunk())
    for exchange in (before, events):
        exchange.leave()
        await exchange.is_over.wait()
    return b"".join(parts)


@pytest.mark.parametrize(
    ("settings", "headers", "sees"),
    [
        ({}, {}, False),
        ({"status_content": True}, {}, True),
        ({"status_content": True}, PROXIED, False),
        ({"status_content": True}, {"Via": "1.1 proxy"}, False),
        ({"status_key": "open", "status_content": True}, {"Authorization": "Bearer open"}, True),
        ({"status_key": "open", "status_content": True}, {"Authorization": "Bearer open", **PROXIED}, True),
        ({"status_key": "open", "status_content": True}, {}, False),
        ({"status_key": "open", "status_content": True}, {"Authorization": "Bearer shut"}, False),
        ({"status_key": "open", "status_content": True}, {"Cookie": "corral_status=open"}, False),
        ({"status_key": "open"}, {"Authorization": "Bearer open"}, False),
    ],
)
async def test_content_is_in_the_bytes_only_of_those_who_may_see_it(
    settings: dict[str, Any], headers: dict[str, str], sees: bool
) -> None:
    async with serving(secretive(), **settings) as client:
        assert (SECRET.encode() in await everything(client, headers)) is sees


async def test_the_key_is_asked_once_and_kept_in_a_cookie_no_script_can_read() -> None:
    async with serving(secretive(), status_key="open sesame") as client:
        assert client.send("GET", "/status").status is None
        page = client.send("GET", "/status")
        await page.body()
        assert page.status == 200, "the page itself holds nothing"
        refused = client.send("GET", "/status/json")
        assert (await refused.json())["error"]["code"] == "invalid_api_key"
        wrong = client.send("POST", "/status/key", raw=[b"key=open+says+me"])
        await wrong.body()
        assert (wrong.status, "set-cookie" in wrong.headers) == (401, False)
        right = client.send("POST", "/status/key", raw=[b"key=open+sesame"])
        await right.body()
        assert right.status == 204
        cookie = right.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert "sesame" not in cookie
        with_cookie = client.send("GET", "/status/json", headers={"Cookie": cookie.partition(";")[0]})
        assert (await with_cookie.json())["server"]["phase"] == "idle"


async def test_without_a_status_key_an_api_key_opens_the_status_page() -> None:
    async with serving(secretive(), api_keys=("one", "two")) as client:
        for path in ("/status/json", "/metrics"):
            refused = client.send("GET", path)
            await refused.body()
            assert refused.status == 401
            allowed = client.send("GET", path, headers={"Authorization": "Bearer two"})
            await allowed.body()
            assert allowed.status == 200


@pytest.mark.parametrize(("headers", "status"), [({}, 404), (PROXIED, 403)])
async def test_without_a_key_only_this_machine_may_stop_requests(
    headers: dict[str, str], status: int
) -> None:
    async with serving(secretive()) as client:
        stop = client.send("DELETE", "/v1/requests/nobody", headers=headers)
        await stop.body()
        assert stop.status == status


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://localhost:8000.evil.example"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "https://localhost:8000"},
        {"Origin": "http://localhost"},
        {"Origin": "http://localhost:8000/"},
        {"Origin": "http://user@localhost:8000"},
        {"Origin": "localhost:8000"},
        {"Origin": ""},
        {"Origin": ("http://localhost:8000", "http://localhost:8000")},
        {"Origin": "https://llm.example:3000"},
        {"host": "evil.example:8000"},
        {"host": "evil.example:8000", "Origin": "http://evil.example:8000"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_another_sites_page_gets_nothing(method: str, path: str, headers: dict[str, Any]) -> None:
    async with serving(secretive(), status_content=True, allowed_hosts=("llm.example",)) as client:
        exchange = client.send(method, path, {"messages": []}, headers=headers)
        await exchange.started()
        assert exchange.status == 403
        body = await exchange.body()
        assert json.loads(body)["error"]["code"] == "forbidden"
        assert not [name for name in exchange.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://localhost:8000"},
        {"Origin": "https://llm.example"},
        {"Origin": "https://llm.example:443"},
        {"Origin": "https://llm.example:8443", "Host": "llm.example:8443"},
        {"Origin": "https://other.example:8443"},
        {"Origin": "http://127.0.0.1:8000", "Host": "127.0.0.1:8000"},
        {"Origin": "http://[::1]:8000", "Host": "[::1]:8000"},
        {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ],
)
async def test_our_own_pages_and_links_to_them_are_served(headers: dict[str, str]) -> None:
    listed = ("llm.example", "other.example:8443")
    async with serving(secretive(), allowed_hosts=listed) as client:
        page = client.send("GET", "/status", headers=headers)
        await page.body()
        assert page.status == 200


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost:8000/health", "localhost:8000", 200),
        ("HTTPS://127.0.0.1/health?x=1", "localhost:8000", 200),
        ("http://evil.example/health", "localhost:8000", 403),
        ("http://localhost:8000@evil.example/health", "localhost:8000", 400),
        ("http:///health", "localhost:8000", 400),
        ("ftp://localhost/health", "localhost:8000", 400),
        ("localhost:8000", "localhost:8000", 400),
        ("health", "localhost:8000", 400),
        ("", "localhost:8000", 400),
        ("/health", "[::1]evil.example", 400),
        ("/health", "[127.0.0.1]evil", 400),
        ("/health", "127.0.0.1:99999", 400),
        ("/health", "127.0.0.1, evil.example", 400),
        ("/health", "a" * 64, 403),
        ("/health", "\xe4\xf6", 403),
        ("/health", "[::1]:8000", 200),
        ("/health", "", 200),
    ],
)
async def test_a_target_and_its_host_are_ours_or_refused(target: str, host: str, status: int) -> None:
    async with serving(secretive()) as client:
        exchange = client.send("GET", target, headers={"Host": host})
        body = await exchange.json()
        assert exchange.status == status
        assert ("error" in body) == (status != 200)


SPELLINGS = [
    {"Authorization": "Bearer one"},
    {"Authorization": "BEARER one"},
    {"Authorization": "bEarer   one "},
    {"X-Api-Key": "one"},
    {"X-Api-Key": "one", "Authorization": "Basic junk"},
    {"X-Api-Key": "one", "Authorization": "Other junk"},
]


async def ask(client: Client, headers: dict[str, str], address: str = "127.0.0.1") -> str:
    """Begin a stream, and return its id."""
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 9}
    exchange = client.send("POST", "/v1/chat/completions", body, headers=headers, address=address)
    first = await exchange.chunk()
    return str(json.loads(first.removeprefix(b"data: "))["id"])


async def places(client: Client, ids: list[str], headers: dict[str, str]) -> list[int | None]:
    """Where in line requests stand, 0 being next; None for those that run."""
    status = await client.send("GET", "/status/json", headers=headers).json()
    queue = {place["id"]: place["position"] for place in status["queue"]}
    return [queue.get(id) for id in ids]


async def test_a_key_is_one_client_however_it_is_spelled() -> None:
    gate = Gate()
    keys = ("one", "two")
    async with serving(ScriptedBackend(on_step=gate), slots=1, api_keys=keys) as client, opening(gate):
        ids = [await ask(client, headers) for headers in SPELLINGS]
        ids.append(await ask(client, {"Authorization": "Bearer two"}))
        line = await places(client, ids, {"Authorization": "Bearer one"})
        assert line == [None, 1, 2, 3, 4, 5, 0], "the other key's first request is next"


async def test_without_keys_an_address_is_one_client_whatever_it_sends() -> None:
    gate = Gate()
    async with serving(ScriptedBackend(on_step=gate), slots=1) as client, opening(gate):
        ids = []
        for number, address in enumerate(["10.0.0.1", "2001:db8::1", "2001:db8::2", "10.0.0.2", "10.0.0.1"]):
            headers = {"Authorization": f"Bearer junk{number}", "X-Forwarded-For": f"10.1.1.{number}"}
            ids.append(await ask(client, headers, address))
        line = await places(client, ids, {})
        assert line == [None, 0, 2, 1, 3], "an IPv6 network is one client"


async def test_pages_are_strict_cached_with_care_and_typed() -> None:
    async with serving(secretive()) as client:
        for path, content_type in (
            ("/", "text/html; charset=utf-8"),
            ("/status", "text/html; charset=utf-8"),
            ("/static/status/main.js", "text/javascript; charset=utf-8"),
            ("/static/vendor/dompurify/purify.es.mjs", "text/javascript; charset=utf-8"),
            ("/static/shared/icon.svg", "image/svg+xml"),
        ):
            page = client.send("GET", path)
            body = await page.body()
            assert (page.status, page.headers["content-type"]) == (200, content_type)
            assert page.headers["cache-control"] == "no-cache"
            assert page.headers["x-content-type-options"] == "nosniff"
            if content_type.startswith("text/html"):
                policy = page.headers["content-security-policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert b"style=" not in body
                assert b"<script>" not in body
            again = client.send("GET", path, headers={"If-None-Match": page.headers["etag"]})
            assert (await again.body(), again.status) == (b"", 304)
        for path in ("/static/../pyproject.toml", "/static/nothing", "/static/"):
            missing = client.send("GET", path)
            await missing.body()
            assert missing.status == 404


async def test_props_lists_every_route_of_the_router_and_says_what_it_is_for() -> None:
    async with serving(secretive()) as client:
        props = await client.send("GET", "/props").json()
        listed = sorted((route["path"], route["methods"]) for route in props["routes"])
        rules = list(client.app.running.app.url_map.iter_rules())
        paths = {rule.rule for rule in rules}
        assert listed == sorted(
            (rule.rule, sorted(rule.methods - {"HEAD", "OPTIONS"}))
            for rule in rules
            if f"/v1{rule.rule}" not in paths
        )
        assert all(route["about"] for route in props["routes"])
        assert {route["path"] for route in props["routes"] if route["access"] == "public"} == {
            "/",
            "/health",
            "/robots.txt",
            "/static/<path:name>",
            "/status",
            "/status/key",
        }
        assert props["model"] == "scripted"
        assert props["format"]["source"] == "generic"


async def test_props_says_what_clients_of_llama_server_read_and_how_the_model_writes() -> None:
    async with serving(ScriptedBackend()) as client:
        props = await client.send("GET", "/props").json()
        [model] = (await client.send("GET", "/v1/models").json())["data"]
    assert props["total_slots"] == props["slots"]
    assert props["default_generation_settings"]["n_ctx"] == model["max_model_len"]
    assert props["modalities"] == {"vision": False, "audio": False}
    assert (props["model_path"], props["model_alias"]) == ("scripted", "scripted")
    assert "<|im_start|>" in props["chat_template"]
    assert props["format"]["source"] == "generic"
    assert props["format"]["format"]["calls"][0]["begin"] == ["<tool_call>\n"]


async def test_metrics_are_typed_documented_and_named_with_units() -> None:
    gate = Gate()
    gate.open()
    async with serving(ScriptedBackend(on_step=gate)) as client:
        await client.chat(max_tokens=3).json()
        await client.service.wait_settled()
        scrape = client.send("GET", "/metrics")
        families = {f.name: f for f in text_string_to_metric_families((await scrape.body()).decode())}
        assert scrape.headers["content-type"].startswith("text/plain; version=")
        ours = {name: family for name, family in families.items() if name.startswith("corral")}
        assert len(ours) > 20
        for name, family in ours.items():
            assert family.documentation.endswith("."), name
            assert family.type in ("counter", "gauge", "histogram", "info"), name
            if family.type == "histogram":
                assert name.endswith(("_seconds", "_per_second")), name
        [sample] = [s for s in ours["corral_requests"].samples if s.name.endswith("_total")]
        assert (sample.labels, sample.value) == ({"api": "chat", "outcome": "length"}, 1.0)
        assert ours["corral_completion_tokens"].samples[0].value == 3


async def test_the_grafana_dashboard_and_the_alerts_ask_for_metrics_that_there_are() -> None:
    dashboard = json.loads((DOCS / "grafana" / "corral.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    alerts = (DOCS.parent / "deploy" / "alerts.yml").read_text()
    asked = set(re.findall(r"\b(?:corral|process)_\w+", "\n".join([*expressions, alerts])))
    async with serving(ScriptedBackend()) as client:
        # Labelled metrics have samples once there is something to label.
        await client.chat(max_tokens=2).json()
        await client.chat(n=99).body()
        await client.service.wait_settled()
        metrics = (await client.send("GET", "/metrics").body()).decode()
    async with front(ScriptedUpstream(says_hello)) as client:
        await client.chat().json()
        await client.service.wait_settled()
        metrics += (await client.send("GET", "/metrics").body()).decode()
    async with several() as many:
        metrics += (await many.client.send("GET", "/metrics").body()).decode()
    samples = {re.split(r"[{ ]", line)[0] for line in metrics.splitlines() if not line.startswith("#")}
    assert asked <= samples, asked - samples
    parts = ("_bucket", "_count", "_sum", "_created", "_info")
    shown = {name for name in samples if name.startswith("corral_") and not name.endswith(parts)}
    assert shown <= asked, f"no panel shows {shown - asked}"


async def test_the_documentation_lists_every_metric_every_route_and_every_outcome() -> None:
    text = (DOCS / "status.md").read_text()
    async with serving(ScriptedBackend()) as client:
        metrics = (await client.send("GET", "/metrics").body()).decode()
        routes = (await client.send("GET", "/props").json())["routes"]
    async with front(ScriptedUpstream()) as client:
        metrics += (await client.send("GET", "/metrics").body()).decode()
    async with several() as many:
        metrics += (await many.client.send("GET", "/metrics").body()).decode()
    for line in metrics.splitlines():
        if line.startswith("# TYPE corral") and not (name := line.split()[2]).endswith("_created"):
            assert f"`{name}`" in text, name
    operators = [route["path"] for route in routes if route["access"] == "operator"]
    for path in operators:
        assert re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path) in text, path
    for outcome in get_args(Outcome):
        assert f"| `{outcome}` |" in text, outcome
