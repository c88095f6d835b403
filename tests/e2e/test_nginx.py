"""Behind nginx, with its defaults: what corral says gets through as it is said, and leaving does, too."""

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.e2e.processes import MODEL, QUESTION, Server, free_port

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx-light"),
]

# What deploy/nginx.conf advises, but for the address.
ADVISED = re.sub(
    r"#[^\n]*|proxy_pass[^;]*;",
    "",
    (Path(__file__).parents[2] / "deploy" / "nginx.conf")
    .read_text()
    .partition("location / {")[2]
    .partition("}")[0],
)

# /new is ADVISED. /old is nginx unasked: HTTP/1.0 to the server, and buffering wherever the server does not
# forbid it.
CONFIGURATION = """
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
    server {{
        listen 127.0.0.1:{port};
        location /old/ {{ proxy_pass http://127.0.0.1:{upstream}/; }}
        location /new/ {{
            proxy_pass http://127.0.0.1:{upstream}/;
            {advised}
        }}
    }}
}}
"""


@pytest.fixture(scope="module")
def proxy(narrow: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """nginx in front of `narrow`."""
    folder = tmp_path_factory.mktemp("nginx")
    port = free_port()
    (folder / "nginx.conf").write_text(
        CONFIGURATION.format(folder=folder, port=port, upstream=narrow.port, advised=ADVISED)
    )
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


both_ways = pytest.mark.parametrize("way", ["/old", "/new"])


@both_ways
def test_an_answer_and_a_stream(proxy: Server, way: str, sdk: Callable[..., openai.OpenAI]) -> None:
    ask = sdk(f"{proxy.base}{way}/v1").chat.completions.create
    request: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "max_tokens": 8, "temperature": 0}
    assert ask(**request).usage.completion_tokens == 8
    assert [chunk.choices[0].finish_reason for chunk in ask(**request, stream=True)][-1] == "length"


@both_ways
def test_keepalives_pass_one_by_one(narrow: Server, proxy: Server, way: str) -> None:
    """Were they buffered, nothing would come: a stream that waits has nothing else to say."""
    with narrow.stream(), proxy.stream(f"{way}/v1/chat/completions") as waiting:
        began = time.monotonic()
        for _ in range(3):
            assert json.loads(waiting.frame())["choices"][0]["delta"] == {}
        assert 0.1 < time.monotonic() - began < 3, "one each 0.2 s"
    assert narrow.answers_soon()


@both_ways
@pytest.mark.parametrize("phase", ["running", "waiting"])
def test_leaving_reaches_the_engine(narrow: Server, proxy: Server, way: str, phase: str) -> None:
    path = f"{way}/v1/chat/completions"
    with proxy.stream(path) as running:
        assert running.frame()
        if phase == "waiting":
            with proxy.stream(path) as waiting:
                waiting.sock.shutdown(socket.SHUT_RDWR)
    assert narrow.answers_soon()
