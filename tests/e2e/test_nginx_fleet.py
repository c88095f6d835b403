"""Three corrals behind one nginx, by deploy/nginx-fleet.conf: who goes where, and what leaving reaches."""

import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.processes import QUESTION, Server, Stream, free_port, launch

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx-light")

ROOT = Path(__file__).parents[2]
ADVISED = (ROOT / "deploy" / "nginx-fleet.conf").read_text()
AROUND = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {advised}
}}
"""
FRONTS = 3
LIMIT_S = 20.0


@pytest.fixture(scope="module")
def fronts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Corrals of one slot on the scripted engine, which may be killed."""
    program = str(ROOT / "tools" / "servers" / "scripted.py")
    flags = ["--slots", "1", "--queue-requests", "1", "--step-ms", "5", "--stream-keepalive-s", "0.2"]
    with ExitStack() as stack:
        running = []
        for _ in range(FRONTS):
            port = free_port()
            server = launch(
                tmp_path_factory.mktemp("front"),
                [sys.executable, program, "--port", str(port), *flags],
                port=port,
            )
            server.may_log = [""]
            stack.callback(server.stop)
            running.append(server)
        for server in running:
            server.until_healthy()
        yield running


@pytest.fixture(scope="module")
def proxy(fronts: list[Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """nginx in front of them, with what is advised but for addresses."""
    folder = tmp_path_factory.mktemp("nginx")
    port = free_port()
    advised = ADVISED.replace("listen 80;", f"listen 127.0.0.1:{port};")
    for number, front in enumerate(fronts, start=8001):
        advised, replaced = re.subn(rf"127\.0\.0\.1:{number}\b", f"127.0.0.1:{front.port}", advised)
        assert replaced == 1
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder, advised=advised))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(NGINX), "-c", str(folder / "nginx.conf"), "-p", str(folder)], stdout=log, stderr=log
        )
    server = Server(process, port, folder / "log", folder / "log")
    try:
        server.until_listening()
        yield server
    finally:
        process.terminate()
        process.wait()


def chat(proxy: Server, session: str, max_tokens: int, *, stream: bool) -> http.client.HTTPConnection:
    """A request that was sent, of which nothing was read."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
    body = json.dumps({"model": "m", "messages": QUESTION, "max_tokens": max_tokens, "stream": stream})
    headers = {"content-type": "application/json", "x-session-id": session}
    connection.request("POST", "/v1/chat/completions", body, headers)
    return connection


def requests_of(front: Server) -> list[Any]:
    connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=30)
    connection.request("GET", "/status/json")
    told: list[Any] = json.loads(connection.getresponse().read())["requests"]
    connection.close()
    return told


def who_has(fronts: list[Server], session: str) -> Server:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        for front in fronts:
            if any(request.get("session") == session for request in requests_of(front)):
                return front
    raise AssertionError("nobody has it")


def freed_s(front: Server) -> float:
    """Seconds until it has nothing of anybody."""
    began = time.monotonic()
    while requests_of(front):
        assert time.monotonic() - began < LIMIT_S
    return time.monotonic() - began


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_frees_the_front_that_has_it_at_once(
    fronts: list[Server], proxy: Server, stream: bool
) -> None:
    running = chat(proxy, "leaving", 50_000, stream=stream)
    front = who_has(fronts, "leaving")
    waiting = chat(proxy, "leaving", 50_000, stream=stream)
    while len(requests_of(front)) < 2:
        pass
    running.close()
    waiting.close()
    assert freed_s(front) < 1.0


def test_a_conversation_stays_with_its_front_and_others_are_spread(
    fronts: list[Server], proxy: Server
) -> None:
    seen: dict[str, set[int]] = {}
    for _ in range(2):
        for number in range(12):
            session = f"conversation {number}"
            connection = chat(proxy, session, 50_000, stream=True)
            front = who_has(fronts, session)
            seen.setdefault(session, set()).add(front.port)
            connection.close()
            freed_s(front)
    assert all(len(ports) == 1 for ports in seen.values()), seen
    assert len(set.union(*seen.values())) == FRONTS


def test_a_front_that_dies_ends_what_had_begun_and_nothing_else(fronts: list[Server], proxy: Server) -> None:
    """The last test of this module: one of them is gone then."""
    asked = {"model": "m", "messages": QUESTION, "max_tokens": 50_000, "stream": True, "user": "x"}
    running = proxy.connect()
    with Stream(running, "/v1/chat/completions", asked) as stream:
        assert stream.frame()
        [dying] = [front for front in fronts if requests_of(front)]
        dying.exit_code = -signal.SIGKILL
        dying.signal(signal.SIGKILL)
        dying.wait()
        assert "[DONE]" not in stream.frames()
    for number in range(12):
        connection = chat(proxy, f"conversation {number}", 2, stream=False)
        assert connection.getresponse().status == 200
        connection.close()
