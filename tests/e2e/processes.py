"""Servers as their users start them: a process, a port, what it printed, and how it ended."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from openai.types.chat import ChatCompletionMessageParam

CORRAL = (sys.executable, "-m", "corral", "serve")
MODEL = "SmolLM2-135M-Instruct"
QUESTION: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is a corral? Tell me in a few words."}
]
# The tokens that end an answer of this model, forbidden: such a stream goes on until the context is full.
ENDLESS: dict[str, Any] = {"logit_bias": {"0": -100, "2": -100}, "temperature": 0, "stream": True}
HANGS = "this step never returns"
"""What a server prints whose step hangs (see `troubled`, which changes this process if it is imported)."""
START_S = 60.0
STOP_S = 15.0

INFO = re.compile(r"^\S+ \S+ INFO |^\[[^]]+\] \[\d+\] \[INFO\] ")


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def environment(**variables: str) -> dict[str, str]:
    """Ours, without the settings of whoever runs the tests, and without the tests' own warnings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CORRAL_")}
    return inherited | {"PYTHONWARNINGS": ""} | variables


@dataclass
class Server:
    """A process that serves on `port` of loopback. What it prints goes to the two files."""

    process: subprocess.Popen[bytes]
    port: int
    output: Path
    errors: Path
    scheme: str = "http"
    exit_code: int = 0
    """What it must end with."""
    may_log: list[str] = field(default_factory=list)
    """Regular expressions of lines on stderr that are expected besides those at level INFO."""

    @property
    def base(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        return f"{self.base}/v1"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def stream(self, path: str = "/v1/chat/completions", **fields: object) -> "Stream":
        """A chat to enter, by default one that does not end; entering it reads to its role chunk."""
        return Stream(self.connect(), path, {"model": MODEL, "messages": QUESTION, **ENDLESS, **fields})

    def answers_at_once(self) -> bool:
        """Whether a slot is free: on a server with one, any other stream of these tests would go on."""
        began = time.monotonic()
        with self.stream(max_tokens=1) as stream:
            assert stream.frames()[-1] == "[DONE]"
        return time.monotonic() - began < 3

    def answers_soon(self) -> bool:
        """As `answers_at_once`, once a proxy has told that its client left; until then the queue is full."""
        began = time.monotonic()
        while time.monotonic() - began < 3:
            with suppress(QueueIsFull):
                return self.answers_at_once() and time.monotonic() - began < 3
        return False

    def until_healthy(self) -> None:
        """Until /health says 200. Fails with what it printed if it ends before, or takes too long."""
        self.until_listening()
        if self.scheme == "http":
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_S)
            connection.request("GET", "/health")  # answered once the model is loaded
            assert connection.getresponse().status == 200
            connection.close()

    def until_listening(self, *, is_wanted: bool = True) -> None:
        """Until connections are taken; or no longer are."""
        deadline = time.monotonic() + START_S
        while self.process.poll() is None:
            try:
                self.connect().close()
                is_listening = True
            except OSError:
                is_listening = False
            if is_listening == is_wanted:
                return
            assert time.monotonic() < deadline, self.errors.read_text()
            time.sleep(0.02)  # another process: nothing here can wait for it
        raise AssertionError(f"it ended with {self.process.returncode}: {self.errors.read_text()}")

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, limit_s: float = STOP_S) -> int:
        """Until it has ended; its exit code. Raises TimeoutExpired."""
        return self.process.wait(limit_s)

    def stop(self) -> None:
        """End it, unless it has; it must end in time, with `exit_code` and nothing strange in its log."""
        try:
            if self.process.poll() is None:
                self.signal()
            code = self.wait()
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        log = self.errors.read_text()
        strange = [line for line in log.splitlines() if not INFO.match(line) and not self._may_log(line)]
        assert not strange, log
        assert code == self.exit_code, log

    def _may_log(self, line: str) -> bool:
        return any(re.search(pattern, line) for pattern in self.may_log)


class QueueIsFull(AssertionError):
    """The answer was 429."""


class Stream:
    """A streamed chat, read frame by frame from the socket itself. Leaving it closes the connection."""

    def __init__(self, sock: socket.socket, path: str, fields: dict[str, object]) -> None:
        self.sock = sock
        self._reader = sock.makefile("rb")
        body = json.dumps(fields).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._request = f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    def __enter__(self) -> Self:
        try:
            self.sock.sendall(self._request)
            status = self._reader.readline()
            if status.split()[1:2] == [b"429"]:
                raise QueueIsFull(status)
            assert status.split()[1:2] == [b"200"], status
            while self._reader.readline() != b"\r\n":
                pass
            assert json.loads(self.frame())["choices"][0]["delta"]["role"] == "assistant"
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._close()

    def _close(self) -> None:
        self._reader.close()
        self.sock.close()

    def frame(self) -> str:
        """The data of the next event, without what chunked encoding puts in between; EOFError at the end."""
        while line := self._reader.readline():
            if line.startswith(b"data: "):
                return line[6:].decode().strip()
        raise EOFError

    def frames(self) -> list[str]:
        """All that are left."""
        found = []
        with suppress(EOFError):
            while True:
                found.append(self.frame())
        return found


def launch(
    folder: Path, command: Sequence[str], *, port: int, cwd: Path | None = None, **variables: str
) -> Server:
    """Start `command` in `cwd`, else in `folder`, where its output goes; does not wait for anything."""
    output, errors = folder / f"{port}.out", folder / f"{port}.err"
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=cwd or folder,
            env=environment(**variables),
        )
    return Server(process, port, output, errors)


def corral(folder: Path, *flags: str, port: int | None = None) -> Server:
    """`corral serve` on a free port, with a KV cache that leaves room on a small machine."""
    port = port or free_port()
    command = [*CORRAL, "--bind", f"127.0.0.1:{port}", "--ctx", "8192", *flags]
    return launch(folder, command, port=port)


def curl(server: Server, **replaced: str) -> str:
    """What comes of the curl line that `server` has printed, with an answer of few tokens."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = "\n".join(server.output.read_text().splitlines()[1:])
    for old, new in replaced.items():
        command = command.replace(old, new)
    command = command.replace('"stream": true', '"stream": true, "max_tokens": 9')
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
