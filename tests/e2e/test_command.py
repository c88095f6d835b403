"""`corral serve` as a command: how it greets, what stops it from starting, how signals end it."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.e2e.processes import CORRAL, MODEL, Server, curl, environment, free_port

from corral.engine.local.llama.modelfile import resolve

pytestmark = pytest.mark.model

Start = Callable[..., Server]

both_signals = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])


def test_the_curl_line_that_it_prints_works(narrow: Server) -> None:
    assert narrow.output.read_text().startswith(f"corral: {MODEL} is ready: chat at {narrow.base}/, ")
    assert curl(narrow).endswith("data: [DONE]\n\n")


def test_it_says_that_it_runs_once_the_model_is_loaded(narrow: Server) -> None:
    [line] = [line for line in narrow.errors.read_text().splitlines() if "Running on" in line]
    assert f"Running on {narrow.base}" in line


def refused(tmp_path: Path, *flags: str) -> str:
    """The one line with which a server does not start."""
    done = subprocess.run(
        [*CORRAL, *flags], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = [line for line in done.stderr.splitlines() if " INFO " not in line]
    return line


def test_a_busy_port(narrow: Server, tmp_path: Path) -> None:
    bind = f"127.0.0.1:{narrow.port}"
    assert f"cannot listen on {bind}: it is in use; choose another with --bind" in refused(
        tmp_path, "--bind", bind
    )


def test_no_such_model(tmp_path: Path) -> None:
    line = refused(tmp_path, "--bind", f"127.0.0.1:{free_port()}", "--model", "no.gguf")
    assert line == "corral: there is no model file at no.gguf"


def test_something_else_than_a_model(tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<html>404 Not Found</html>")
    line = refused(tmp_path, "--bind", f"127.0.0.1:{free_port()}", "--model", "page.gguf")
    assert line.startswith("corral: page.gguf is not a GGUF file; ")


@pytest.mark.parametrize("part", [0.001, 0.5])
def test_half_a_model(tmp_path: Path, part: float) -> None:
    whole = resolve(None).path
    with whole.open("rb") as file:
        (tmp_path / "half.gguf").write_bytes(file.read(int(whole.stat().st_size * part)))
    line = refused(tmp_path, "--bind", f"127.0.0.1:{free_port()}", "--model", "half.gguf")
    assert line.startswith("corral: half.gguf")


def test_a_context_that_does_not_fit_in_memory(tmp_path: Path) -> None:
    line = refused(tmp_path, "--bind", f"127.0.0.1:{free_port()}", "--ctx", "999999999")
    assert line.startswith("corral: ")
    assert "--ctx" in line


@both_signals
def test_a_signal_lets_streams_end(start: Start, number: signal.Signals) -> None:
    server = start()
    with server.stream(max_tokens=60) as stream:
        server.signal(number)
        *_, last, done = stream.frames()
    assert json.loads(last)["choices"][0]["finish_reason"] == "length"
    assert done == "[DONE]"
    assert server.wait() == 0


@both_signals
def test_a_stream_that_does_not_end_is_told_why(start: Start, number: signal.Signals) -> None:
    server = start("--drain-s", "0.3", "--slots", "1")
    with server.stream() as running, server.stream() as waiting:
        began = time.monotonic()
        server.signal(number)
        last = [json.loads(stream.frames()[-1]) for stream in (running, waiting)]
    assert [frame["error"]["code"] for frame in last] == ["server_shutdown", "server_shutdown"]
    assert server.wait() == 0
    assert time.monotonic() - began < 0.3 + 2


@both_signals
def test_a_second_signal_ends_it_at_once(start: Start, number: signal.Signals) -> None:
    server = start("--drain-s", "60")
    with server.stream() as stream:
        server.signal(number)
        server.until_listening(is_wanted=False)
        assert stream.frame(), "the first one lets it go on"
        began = time.monotonic()
        server.signal(number)
        assert server.wait() == 0
    assert time.monotonic() - began < 2
