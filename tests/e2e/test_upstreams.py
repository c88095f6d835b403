"""corral in front of real engines: llama-server, llama_cpp.server and another corral, each in a process.

llama-server is the one that CORRAL_TEST_LLAMA_SERVER names, or `llama-server/llama-server` in corral's cache.
llama_cpp.server is that of the Python that CORRAL_TEST_LLAMA_CPP_PYTHON names, or of this one: it needs the
extras of `llama-cpp-python[server]`.
"""

import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import openai
import pytest
from platformdirs import user_cache_path
from tests.e2e.processes import CORRAL, MODEL, QUESTION, Server, Stream, corral, free_port, launch

from corral.engine.local.llama.modelfile import resolve

pytestmark = pytest.mark.model

LLAMA_SERVER = Path(
    os.environ.get("CORRAL_TEST_LLAMA_SERVER") or user_cache_path("corral") / "llama-server" / "llama-server"
)
needs_llama_server = pytest.mark.skipif(
    not LLAMA_SERVER.exists(), reason="there is no llama-server here; CORRAL_TEST_LLAMA_SERVER names one"
)
PYTHON = os.environ.get("CORRAL_TEST_LLAMA_CPP_PYTHON") or sys.executable
SERVER_NEEDS = ("fastapi", "uvicorn", "sse_starlette", "starlette_context", "pydantic_settings")
needs_python_server = pytest.mark.skipif(
    sys.executable == PYTHON and not all(map(find_spec, SERVER_NEEDS)),
    reason="llama_cpp.server cannot be imported here: pip install 'llama-cpp-python[server]', "
    "or CORRAL_TEST_LLAMA_CPP_PYTHON names a Python that has it",
)
LONG = [{"role": "user", "content": "sheep and cattle " * 150}]
SETTLED_S = 60.0


def llama_server(folder: Path) -> Server:
    port = free_port()
    model = str(resolve(None).path)
    command = [str(LLAMA_SERVER), "-m", model, "-t", "1", "-np", "2", "-c", "4096", "--port", str(port)]
    server = launch(folder, command, port=port)
    server.may_log = [""]
    return server


def python_server(folder: Path) -> Server:
    port = free_port()
    model = str(resolve(None).path)
    flags = ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", "2048", "--n_threads", "1"]
    server = launch(folder, [PYTHON, "-m", "llama_cpp.server", "--model", model, *flags], port=port)
    server.may_log = [""]
    server.exit_code = -signal.SIGTERM
    return server


def front(folder: Path, *upstreams: Server, flags: tuple[str, ...] = ()) -> Server:
    port = free_port()
    urls = ",".join(upstream.base for upstream in upstreams)
    command = [*CORRAL, "--bind", f"127.0.0.1:{port}", "--upstream", urls, *flags]
    return launch(folder, command, port=port)


def got(server: Server, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", path)
    body = json.loads(connection.getresponse().read())
    connection.close()
    return body


def until_well(server: Server) -> None:
    """llama-server says 503 while it loads."""
    server.until_listening()
    deadline = time.monotonic() + SETTLED_S
    while got(server, "/health") != {"status": "ok"}:
        assert time.monotonic() < deadline, server.errors.read_text()
        time.sleep(0.05)  # another process: nothing here can wait for it


def until_settled(server: Server) -> Any:
    """Until nothing is left of any request; what /status says then."""
    deadline = time.monotonic() + SETTLED_S
    while (told := got(server, "/status/json"))["requests"]:
        assert time.monotonic() < deadline, told["requests"]
        time.sleep(0.05)  # as above
    return told


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[[Server], Server]]:
    """Waits for a server, and ends it with the test."""
    with ExitStack() as stack:

        def run(server: Server) -> Server:
            stack.callback(server.stop)
            until_well(server)
            return server

        yield run


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One llama-server, for all tests."""
    with ExitStack() as stack:
        server = llama_server(tmp_path_factory.mktemp("engine"))
        stack.callback(server.stop)
        until_well(server)
        yield server


@pytest.fixture(scope="module")
def before(engine: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """corral in front of it."""
    with ExitStack() as stack:
        server = front(tmp_path_factory.mktemp("front"), engine)
        stack.callback(server.stop)
        server.until_healthy()
        yield server


@pytest.fixture(scope="module")
def scripted_upstreams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Two engines that wait instead of computing."""
    program = Path(__file__).parents[2] / "tools" / "servers" / "waiting.py"
    with ExitStack() as stack:
        servers = []
        for _ in range(2):
            port = free_port()
            command = [sys.executable, str(program), "--port", str(port), "--gap-ms", "5"]
            server = launch(tmp_path_factory.mktemp("waiting"), command, port=port)
            server.exit_code = -signal.SIGTERM
            stack.callback(server.stop)
            server.until_listening()
            servers.append(server)
        yield [server.base for server in servers]


@needs_llama_server
def test_llama_server_says_the_same_through_corral(
    engine: Server, before: Server, sdk: Callable[..., openai.OpenAI]
) -> None:
    said = []
    for server in (engine, before):
        answer = sdk(server.api).chat.completions.create(
            model=MODEL, messages=QUESTION, max_tokens=12, temperature=0
        )
        assert answer.usage is not None
        usage = answer.usage
        said.append((answer.choices[0].message.content, usage.prompt_tokens, usage.completion_tokens))
    assert said[0] == said[1]


@needs_llama_server
def test_an_answer_of_llama_server_is_held_to_a_schema(
    before: Server, sdk: Callable[..., openai.OpenAI]
) -> None:
    schema: dict[str, object] = {
        "type": "object",
        "properties": {"legs": {"type": "integer"}},
        "required": ["legs"],
    }
    answer = sdk(before.api).chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        max_tokens=60,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    assert isinstance(json.loads(answer.choices[0].message.content or "")["legs"], int)


@needs_llama_server
def test_a_client_that_leaves_in_decode_frees_the_slot_of_llama_server(
    engine: Server, before: Server
) -> None:
    with before.stream() as stream:
        while '"content":' not in stream.frame():
            pass
    until_settled(before)
    assert not any(slot["is_processing"] for slot in got(engine, "/slots"))


@needs_llama_server
def test_a_client_that_leaves_in_prefill_leaves_residual_seconds_and_they_are_seen(
    engine: Server, before: Server
) -> None:
    with before.stream(messages=LONG):
        deadline = time.monotonic() + SETTLED_S
        while not any(slot["is_processing"] for slot in got(engine, "/slots")):
            assert time.monotonic() < deadline
    told = until_settled(before)
    assert not any(slot["is_processing"] for slot in got(engine, "/slots"))
    assert told["totals"]["wasted"]["by_outcome"]["disconnected"]["residual_s"] > 0
    assert told["replicas"][0]["residual_s"] > 0


@needs_llama_server
def test_a_prompt_that_is_too_long_for_llama_server_is_told_as_that(
    before: Server, sdk: Callable[..., openai.OpenAI]
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk(before.api).chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "sheep " * 4000}]
        )
    assert caught.value.code == "context_length_exceeded"


@needs_llama_server
def test_a_llama_server_that_is_killed_loses_only_what_it_had_begun(
    tmp_path: Path, running: Callable[[Server], Server], sdk: Callable[..., openai.OpenAI]
) -> None:
    engines = [running(llama_server(tmp_path)) for _ in range(2)]
    before = running(front(tmp_path, *engines))
    before.may_log = ["is given nothing for a while"]
    with before.stream() as stream:
        while '"content":' not in stream.frame():
            pass
        [request] = got(before, "/status/json")["requests"]
        [victim] = [each for each in engines if request["replicas"] == [f"127.0.0.1:{each.port}"]]
        victim.exit_code = -signal.SIGKILL
        victim.signal(signal.SIGKILL)
        assert "upstream_failed" in stream.frames()[-1]
    for _ in range(5):
        answer = sdk(before.api).chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=2)
        assert answer.choices[0].finish_reason == "length"
    until_settled(before)


@pytest.fixture(scope="module")
def before_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """`python -m llama_cpp.server`, and corral in front of it."""
    with ExitStack() as stack:
        behind = python_server(tmp_path_factory.mktemp("python"))
        stack.callback(behind.stop)
        behind.until_listening()
        before = front(tmp_path_factory.mktemp("before_python"), behind)
        stack.callback(before.stop)
        before.until_healthy()
        before.may_log = [""]
        yield behind, before


def streaming(server: Server, max_tokens: int) -> Stream:
    """One with no field that llama_cpp.server does not have."""
    asked = {"model": MODEL, "messages": QUESTION, "stream": True, "max_tokens": max_tokens}
    return Stream(server.connect(), "/v1/chat/completions", asked)


@needs_python_server
def test_llama_cpp_server_is_found_as_one_that_computes_one_at_a_time(
    before_python: tuple[Server, Server],
) -> None:
    [replica] = got(before_python[1], "/status/json")["replicas"]
    assert (replica["kind"], replica["slots"], replica["state"]) == ("llama-cpp-python", 1, "in service")


@needs_python_server
def test_llama_cpp_server_says_the_same_through_corral(
    before_python: tuple[Server, Server], sdk: Callable[..., openai.OpenAI]
) -> None:
    said = []
    for server in before_python:
        stream = sdk(server.api).chat.completions.create(
            model=MODEL, messages=QUESTION, max_tokens=12, temperature=0, stream=True
        )
        chunks = [chunk.choices[0] for chunk in stream if chunk.choices]
        text = "".join(choice.delta.content or "" for choice in chunks)
        said.append((text, chunks[-1].finish_reason))
    assert said[0] == said[1]
    assert said[0][1] == "length"


@needs_python_server
def test_an_answer_of_llama_cpp_server_is_held_to_a_schema(
    before_python: tuple[Server, Server], sdk: Callable[..., openai.OpenAI]
) -> None:
    schema: dict[str, object] = {"type": "object", "properties": {"legs": {"type": "integer"}}}
    answer = sdk(before_python[1].api).chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        max_tokens=60,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    assert set(json.loads(answer.choices[0].message.content or "")) <= {"legs"}


@needs_python_server
def test_who_waits_for_llama_cpp_server_ends_nobody_and_who_leaves_frees_it(
    before_python: tuple[Server, Server],
) -> None:
    """Asked directly, the second would end the first."""
    _, before = before_python
    with streaming(before, 100) as staying:
        staying.frame()
        with streaming(before, 1500):
            frames = staying.frames()
            assert frames[-1] == "[DONE]"
            assert '"finish_reason":"' in "".join(frames[-3:])
    with streaming(before, 1500) as leaving:
        while '"content":' not in leaving.frame():
            pass
    began = time.monotonic()
    with streaming(before, 2) as stream:
        assert stream.frames()[-1] == "[DONE]"
    assert time.monotonic() - began < 3, "1500 tokens take longer"
    until_settled(before)


@needs_python_server
def test_a_prompt_that_is_too_long_for_llama_cpp_server_is_not_held_against_it(
    before_python: tuple[Server, Server], sdk: Callable[..., openai.OpenAI]
) -> None:
    _, before = before_python
    for _ in range(4):
        with pytest.raises(openai.InternalServerError, match="a prompt is too long"):
            sdk(before.api).chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "sheep " * 4000}]
            )
    assert got(before, "/status/json")["replicas"][0]["state"] == "in service"


def test_another_corral_is_an_upstream_with_all_that_it_tells(
    tmp_path: Path, running: Callable[[Server], Server], sdk: Callable[..., openai.OpenAI]
) -> None:
    behind = running(corral(tmp_path, "--slots", "2"))
    before = running(front(tmp_path, behind))
    assert got(before, "/props")["slots"] == 2
    answers = [
        sdk(server.api).chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=8, temperature=0)
        for server in (behind, before)
    ]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content
    assert answers[1].usage is not None
    assert answers[1].usage.prompt_tokens_details is not None
    assert answers[1].usage.prompt_tokens_details.cached_tokens, "it reused what it had"
    with before.stream(messages=LONG, return_progress=True) as stream:
        while "prompt_progress" not in stream.frame():
            pass
    until_settled(before)
    assert not got(behind, "/status/json")["requests"]


class Dying(BaseHTTPRequestHandler):
    """An upstream that says the beginning of an answer, and is gone. Its server has the `words`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({"data": [{"id": "m", "owned_by": "corral"}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for word in self.server.words:  # type: ignore[attr-defined]
            event = {"choices": [{"index": 0, "delta": {"content": word}}]}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Nobody reads that."""


@contextmanager
def dying(words: list[str]) -> Iterator[str]:
    """One that has said these when it dies; its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Dying) as server:
        server.words = words  # type: ignore[attr-defined]
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def pieces_of(server: Server, sdk: Callable[..., openai.OpenAI]) -> tuple[list[str], Any]:
    """A stream's pieces of text, and its usage."""
    stream = sdk(server.api).chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    return [text for text in texts if text], chunks[-1].usage


def assert_continued(
    tmp_path: Path, behind: Server, running: Callable[[Server], Server], sdk: Callable[..., openai.OpenAI]
) -> None:
    """A stream that another had begun is what `behind` alone would have said."""
    whole, usage = pieces_of(behind, sdk)
    assert len(whole) > 8
    with dying(whole[:6]) as url:
        port = free_port()
        urls = f"{url},{behind.base}"
        command = [*CORRAL, "--bind", f"127.0.0.1:{port}", "--upstream", urls, "--upstream-continues"]
        before = running(launch(tmp_path, [*command, "--stream-interval-ms", "0"], port=port))
        said, told = pieces_of(before, sdk)
    assert "".join(said) == "".join(whole)
    assert (told.prompt_tokens, told.completion_tokens) == (usage.prompt_tokens, usage.completion_tokens)
    assert "after 6 tokens: on" in before.errors.read_text()


def test_a_stream_that_broke_off_is_gone_on_with_by_another_corral(
    tmp_path: Path, running: Callable[[Server], Server], sdk: Callable[..., openai.OpenAI]
) -> None:
    flags = ("--slots", "2", "--stream-interval-ms", "0", "--deterministic", "true")
    assert_continued(tmp_path, running(corral(tmp_path, *flags)), running, sdk)


@needs_llama_server
def test_a_stream_that_broke_off_is_gone_on_with_by_llama_server(
    tmp_path: Path,
    engine: Server,
    running: Callable[[Server], Server],
    sdk: Callable[..., openai.OpenAI],
) -> None:
    assert_continued(tmp_path, engine, running, sdk)


def test_sighup_follows_the_file_and_drops_no_stream(
    tmp_path: Path, running: Callable[[Server], Server], scripted_upstreams: list[str]
) -> None:
    first, second = scripted_upstreams
    file = tmp_path / "corral.toml"
    file.write_text(f'[[upstreams]]\nurl = "{first}"\n')
    port = free_port()
    command = [*CORRAL, "--bind", f"127.0.0.1:{port}", "--config", str(file)]
    before = running(launch(tmp_path, command, port=port))
    before.may_log = ["the settings are left as they were"]
    with before.stream(max_tokens=300) as stream:
        stream.frame()
        file.write_text(f'[[upstreams]]\nurl = "{second}"\nweight = 2.0\n')
        before.signal(signal.SIGHUP)
        states = until(before, lambda replicas: len(replicas) == 2 and replicas[1]["state"] == "in service")
        assert [replica["state"] for replica in states] == ["draining", "in service"]
        assert stream.frames()[-1] == "[DONE]"
    left = until(before, lambda replicas: len(replicas) == 1)
    assert second.endswith(left[0]["name"])
    file.write_text("upstreams = 3\n")
    before.signal(signal.SIGHUP)
    deadline = time.monotonic() + SETTLED_S
    while "left as they were" not in before.errors.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # another process: nothing here can wait for it
    assert before.answers_at_once()


def test_nothing_of_llama_cpp_is_loaded_in_front_of_upstreams(
    tmp_path: Path, running: Callable[[Server], Server], scripted_upstreams: list[str]
) -> None:
    port = free_port()
    urls = ",".join(scripted_upstreams)
    before = running(
        launch(tmp_path, [*CORRAL, "--bind", f"127.0.0.1:{port}", "--upstream", urls], port=port)
    )
    assert before.answers_at_once()
    maps = Path(f"/proc/{before.process.pid}/maps").read_text()
    assert "libllama" not in maps
    assert "libggml" not in maps


def until(server: Server, holds: Callable[[Any], bool]) -> Any:
    """Until its replicas are so; what they are then."""
    deadline = time.monotonic() + SETTLED_S
    while not holds(replicas := got(server, "/status/json")["replicas"]):
        assert time.monotonic() < deadline, replicas
        time.sleep(0.02)  # another process: nothing here can wait for it
    return replicas
