"""However busy, stuck or deceived the server is: a signal ends it in time, and its exit code says how."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import h2.connection
import pytest
from tests.e2e.processes import CORRAL, HANGS, Server, corral, free_port, launch

ROOT = Path(__file__).parents[2]
LEFT_BEHIND = 128 + signal.SIGTERM
NO_STREAM_S = 2.0
DRAIN_S = 0.4
FOREVER_S = 60.0

Troubled = Callable[..., Server]


@pytest.fixture
def troubled(tmp_path: Path) -> Iterator[Troubled]:
    """Starts servers on which nothing can be relied (see `troubled`); each must end with its `exit_code`."""
    with ExitStack() as running:

        def start(
            drain_s: float, *, exit_code: int = 0, hypercorn: bool = False, model: str = "quick"
        ) -> Server:
            port = free_port()
            bind = f"127.0.0.1:{port}"
            command = [sys.executable, "-m", "tests.e2e.troubled", bind, str(drain_s)]
            if hypercorn:
                timeout = ["--graceful-timeout", str(round(drain_s))]
                app = "tests.e2e.troubled:app"
                command = [sys.executable, "-m", "hypercorn", "--bind", bind, *timeout, app]
            path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
            server = launch(tmp_path, command, port=port, PYTHONPATH=path, CORRAL_MODEL=model)
            server.exit_code = exit_code
            server.may_log = ["does not end: leaving it", HANGS]
            running.callback(server.stop)
            if model == "slow":
                server.until_listening()
            else:
                server.until_healthy()
            return server

        yield start


def ask(server: Server, prompt: str, sock: socket.socket | None = None, **fields: object) -> socket.socket:
    """A request that was sent, and not read."""
    messages = [{"role": "user", "content": prompt}]
    body = json.dumps({"messages": messages, "stream": True, **fields}).encode()
    sock = sock or server.connect()
    sock.sendall(head(len(body)) + body)
    return sock


def head(length: int) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % length
    )


def until(server: Server, pattern: str) -> None:
    """Until /status shows it, such as a state."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with server.connect() as sock:
            sock.sendall(b"GET /status/json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            if re.search(pattern, rest_of(sock)):
                return
    raise AssertionError(f"/status never showed {pattern}")


def rest_of(sock: socket.socket) -> str:
    received = b""
    with suppress(ConnectionResetError):
        while data := sock.recv(65536):
            received += data
    return received.decode(errors="replace")


def ended_s(server: Server, *, signals: int = 1) -> float:
    """How long it takes to end once it is told to, in seconds."""
    began = time.monotonic()
    for number in range(signals):
        if number:
            server.until_listening(is_wanted=False)
        server.signal()
    server.wait()
    return time.monotonic() - began


def half_a_head(server: Server) -> socket.socket:
    sock = server.connect()
    sock.sendall(head(9)[:40])
    return sock


def half_a_body(server: Server) -> socket.socket:
    sock = server.connect()
    sock.sendall(head(10_000) + b'{"messages":')
    return sock


def half_a_body_in_http2(server: Server) -> socket.socket:
    client = h2.connection.H2Connection()
    client.initiate_connection()
    fields = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost")]
    client.send_headers(1, [*fields, (":path", "/v1/chat/completions"), ("content-type", "application/json")])
    client.send_data(1, b'{"messages":')
    sock = server.connect()
    sock.sendall(client.data_to_send())
    return sock


def left(server: Server, prompt: str, state: str) -> socket.socket:
    """A client that has left its request in a state; a connection that stands idle."""
    sock = ask(server, prompt)
    until(server, f'"state":"{state}"')
    sock.close()
    until(server, r'"requests":\[\]')
    return server.connect()


def left_a_loop(server: Server) -> socket.socket:
    return left(server, "LOOP", "preparing")


def left_a_hung_step(server: Server) -> socket.socket:
    sock = ask(server, "HANG")
    while HANGS not in server.errors.read_text():
        time.sleep(0.01)
    sock.close()
    until(server, '"state":"write"')
    return server.connect()


@pytest.mark.parametrize(
    ("be_there", "exit_code"),
    [
        (half_a_head, 0),
        (half_a_body, 0),
        (half_a_body_in_http2, 0),
        (left_a_loop, 0),
        (left_a_hung_step, LEFT_BEHIND),
    ],
)
def test_where_no_stream_runs_it_ends_within_two_seconds(
    troubled: Troubled, be_there: Callable[[Server], socket.socket], exit_code: int
) -> None:
    server = troubled(FOREVER_S, exit_code=exit_code)
    with be_there(server) as sock:
        assert ended_s(server) < NO_STREAM_S
        if be_there in (half_a_body, half_a_body_in_http2):
            assert "server_draining" in rest_of(sock)


@pytest.mark.parametrize(
    ("prompt", "state", "streams", "exit_code"),
    [
        ("LOOP", "preparing", True, 0),
        ("LOOP", "preparing", False, 0),
        ("HANG", "prefill", True, LEFT_BEHIND),
        ("TALK", "decode", True, 0),
    ],
)
def test_who_waits_is_told_when_the_drain_is_over_whatever_hangs(
    troubled: Troubled, prompt: str, state: str, streams: bool, exit_code: int
) -> None:
    server = troubled(DRAIN_S, exit_code=exit_code)
    with ask(server, prompt, stream=streams) as sock, ThreadPoolExecutor(1) as reading:
        received = reading.submit(rest_of, sock)
        until(server, f'"state":"{state}"')
        assert ended_s(server) < DRAIN_S + 2
        assert "server_shutdown" in received.result()


def test_who_does_not_read_holds_nothing_up(troubled: Troubled) -> None:
    server = troubled(DRAIN_S)
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", server.port))
        ask(server, "TALK", stalled, logprobs=True, top_logprobs=20)
        until(server, r'"blocked_write_ms":[1-9]')
        assert DRAIN_S < ended_s(server) < DRAIN_S + 2


@pytest.mark.parametrize(
    ("prompt", "state", "exit_code"), [("LOOP", "preparing", 0), ("HANG", "prefill", LEFT_BEHIND)]
)
def test_a_second_signal_ends_it_at_once_whatever_hangs(
    troubled: Troubled, prompt: str, state: str, exit_code: int
) -> None:
    server = troubled(FOREVER_S, exit_code=exit_code)
    with ask(server, prompt):
        until(server, f'"state":"{state}"')
        assert ended_s(server, signals=2) < 1


@pytest.mark.parametrize("hypercorn", [False, True])
def test_a_model_that_is_being_loaded_does_not_hold_it(troubled: Troubled, hypercorn: bool) -> None:
    exit_code = 0 if hypercorn else -signal.SIGTERM
    server = troubled(FOREVER_S, model="slow", hypercorn=hypercorn, exit_code=exit_code)
    assert ended_s(server) < NO_STREAM_S


@pytest.mark.parametrize("be_there", [half_a_body, left_a_hung_step])
def test_under_hypercorn_it_ends_as_soon(
    troubled: Troubled, be_there: Callable[[Server], socket.socket]
) -> None:
    server = troubled(FOREVER_S, hypercorn=True)
    with be_there(server):
        assert ended_s(server) < NO_STREAM_S


def test_under_hypercorn_who_waits_is_told(troubled: Troubled) -> None:
    server = troubled(1, hypercorn=True)
    with ask(server, "HANG") as sock:
        until(server, '"state":"prefill"')
        assert ended_s(server) < 1 + 2
        assert "server_shutdown" in rest_of(sock)


@pytest.mark.model
def test_a_pipe_for_a_model_is_refused_in_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f.gguf")
    done = subprocess.run(
        [*CORRAL, "--model", "f.gguf"], cwd=tmp_path, capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


@pytest.mark.model
def test_nothing_is_freed_under_what_computes(tmp_path: Path) -> None:
    """Of four clients two have left: one while its prompt of 15 MB was read, one in its prefill."""
    server = corral(tmp_path, "--drain-s", "0.4", "--slots", "2")
    with ExitStack() as leaving:
        leaving.callback(server.stop)
        server.until_healthy()
        long = "The river ran past the old mill. " * 800
        socks = [leaving.enter_context(ask(server, text)) for text in (long, "x" * 15_000_000, long, long)]
        until(server, '"state":"prefill"')
        socks[0].close()
        socks[1].close()
        assert ended_s(server) < 0.4 + 2
