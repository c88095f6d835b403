"""serve() on real sockets and the wall clock: start, stop, busy ports, stalled clients at shutdown."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.transport.wires import Journal, close, quart_app, raw_app, read_all, read_until

from corral.errors import StartupError
from corral.transport import Limits, install, serve


def with_lifespan(journal: Journal) -> Callable[..., Any]:
    inner = raw_app(journal)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for stage in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{stage}.complete"})
        else:
            await inner(scope, receive, send)

    return app


@asynccontextmanager
async def served(app: Any, *bind: str, drain_s: float = 0.2) -> AsyncIterator[list[str]]:
    """Serve for the length of the block, then shut down; fails if that takes longer than it may."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(
            partial(
                serve,
                app,
                bind=bind or ["127.0.0.1:0"],
                limits=Limits(drain_s=drain_s),
                shutdown_trigger=stop.wait,
            )
        )
        yield addresses
        stop.set()
        nursery.cancel_scope.deadline = trio.current_time() + drain_s + 2
    assert not nursery.cancel_scope.cancelled_caught


async def dial(address: str, receive_buffer: int | None = None) -> trio.SocketStream:
    sock = trio.socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await sock.connect(("127.0.0.1", int(address.rpartition(":")[2])))
    return trio.SocketStream(sock)


@pytest.mark.parametrize("kind", ["raw", "quart"])
async def test_serving(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "corral.transport")
    app = quart_app(Journal()) if kind == "quart" else with_lifespan(Journal())
    async with served(app, "127.0.0.1:0", "127.0.0.1:0") as addresses:
        assert len(addresses) == 2
        for address in addresses:
            stream = await dial(address)
            await stream.send_all(b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n")
            await read_until(stream, b"answer")
            await close(stream)
    assert any(addresses[0] in record.getMessage() for record in caplog.records)


async def test_a_busy_port_is_an_os_error_that_names_it() -> None:
    async with served(with_lifespan(Journal())) as [address]:
        bind = address.removeprefix("http://")
        with pytest.raises(OSError, match=f"cannot listen on {bind}: it is in use"):
            await serve(with_lifespan(Journal()), bind=[bind], limits=Limits())


@pytest.mark.parametrize("bind", ["127.0.0.1", "nonsense:x", ":"])
async def test_an_address_that_is_none(bind: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        await serve(with_lifespan(Journal()), bind=[bind], limits=Limits())


@pytest.mark.parametrize("in_a_nursery", [False, True])
async def test_an_app_that_says_it_cannot_start(in_a_nursery: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        failed = {"type": "lifespan.startup.failed", "message": "no model"}
        if in_a_nursery:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                await send(failed)
        else:
            await send(failed)

    with pytest.raises(StartupError, match=r"^no model$"):
        await serve(app, bind=["127.0.0.1:0"], limits=Limits())
    assert not caplog.records


async def test_an_app_that_fails_before_it_has_started(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        await serve(app, bind=["127.0.0.1:0"], limits=Limits())
    assert not caplog.records


async def test_an_app_whose_lifespan_fails_while_it_serves_takes_the_server_with_it() -> None:
    journal, fails = Journal(), trio.Event()
    inner = raw_app(journal)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await inner(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await fails.wait()
        raise ZeroDivisionError("a bug")

    with pytest.RaisesGroup(pytest.RaisesExc(ZeroDivisionError, match="a bug")):
        async with served(app) as [address]:
            stream = await dial(address)
            await stream.send_all(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            await read_until(stream, b"data")
            fails.set()
            await journal.until_ended("/stream")
    await close(stream)
    assert journal.started == journal.ended


async def test_a_unix_socket(tmp_path: Path) -> None:
    for _ in range(2):  # the second finds the socket of the first
        async with served(with_lifespan(Journal()), f"unix:{tmp_path}/corral"):
            stream = await trio.open_unix_socket(f"{tmp_path}/corral")
            await stream.send_all(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            await read_until(stream, b"data")
            await close(stream)


async def test_shutdown_with_stalled_clients_and_idle_ones() -> None:
    journal = Journal()
    began = 0.0
    async with served(with_lifespan(journal)) as [address]:
        streams = [await dial(address, receive_buffer=4096) for _ in range(23)]
        for number, stream in enumerate(streams):
            path = b"/flood" if number < 20 else b"/stream" if number < 22 else b"/ok"
            await stream.send_all(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        await journal.until(lambda: journal.started.total() == 23, within_s=5)
        await read_until(streams[-1], b"0\r\n\r\n")
        began = trio.current_time()
    assert trio.current_time() - began < 0.2 + 1 + 0.5
    assert journal.started == journal.ended
    assert await read_all(streams[-1]) == b""
    for stream in streams:
        await close(stream)


@pytest.mark.parametrize("half_closed", [False, True])
@pytest.mark.parametrize("path", ["/before", "/stream"])
async def test_time_from_fin_to_the_end_of_the_handler(path: str, half_closed: bool) -> None:
    journal = Journal()
    async with served(with_lifespan(journal)) as [address]:
        took = []
        for number in range(20):
            stream = await dial(address)
            await stream.send_all(f"GET {path}-{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await journal.until_started(f"{path}-{number}")
            if path == "/stream":
                await read_until(stream, b"data")
            if half_closed:
                await stream.send_eof()
                with trio.move_on_after(0.01):
                    await journal.until_ended(f"{path}-{number}")
                assert not journal.ended[f"{path}-{number}"]
                journal.event(f"{path}-{number}").set()
                assert (await read_all(stream)).endswith(b"0\r\n\r\n")
            began = time.perf_counter()
            await close(stream)
            await journal.until_ended(f"{path}-{number}")
            took.append(time.perf_counter() - began)
        assert sorted(took)[10] < 0.02


APP = """
import trio
from quart import Response, request
from quart.wrappers.response import ResponseBody
from quart_trio import QuartTrio
from corral.transport import EXTENSION, install

install()
app = QuartTrio(__name__)

@app.route("/")
async def index():
    return "served with " + ",".join(request.scope["extensions"][EXTENSION])

class Body(ResponseBody):
    def __init__(self, terminated): self.terminated, self.parts = terminated, [b"begin", b"done"]
    async def __aenter__(self): return self
    async def __aexit__(self, *exc_info): pass
    def __aiter__(self): return self
    async def __anext__(self):
        if not self.parts: raise StopAsyncIteration
        if len(self.parts) == 1:
            await self.terminated.wait()
            await trio.sleep(0.5)
        return self.parts.pop(0)

@app.route("/stream")
async def stream():
    return Response(Body(request.scope["extensions"][EXTENSION]["terminated"]))

@app.route("/forever")
async def forever():
    return Response(Body(trio.Event()))
"""


@pytest.mark.parametrize(
    "options", [[], ["-k", "trio"], ["-w", "2"], ["-w", "0"], ["-k", "trio", "-w", "0"]], ids=" ".join
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_under_hypercorn_itself(options: list[str], number: signal.Signals, tmp_path: Path) -> None:
    with running(tmp_path, *options) as (server, port):
        assert "served with abort,stalled,terminated" in ask(port)
        os.kill(server.pid, number)
        _, errors = server.communicate(timeout=10)
    assert server.returncode == 0, errors
    assert "Traceback" not in errors
    assert "Lifespan" not in errors


@pytest.mark.parametrize("options", [[], ["-k", "trio"], ["-w", "2"]], ids=" ".join)
def test_a_signal_to_the_whole_process_group_lets_responses_end(options: list[str], tmp_path: Path) -> None:
    """As a service manager stops a service."""
    with running(tmp_path, "--graceful-timeout", "20", *options) as (server, port):
        ask(port)
        with stream_from(port) as sock:
            os.killpg(server.pid, signal.SIGTERM)
            rest = b"".join(iter(lambda: sock.recv(65536), b""))
            assert rest.endswith(b"done\r\n0\r\n\r\n")
        server.communicate(timeout=10)
    assert server.returncode == 0


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with running(tmp_path, "--graceful-timeout", "20", "-w", "0") as (server, port):
        ask(port)
        with stream_from(port, "/forever"):
            server.terminate()
            with pytest.raises(subprocess.TimeoutExpired):
                server.wait(timeout=0.3)
            server.terminate()
            server.communicate(timeout=2)
    assert server.returncode == 0


@contextmanager
def stream_from(port: int, path: str = "/stream") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = b""
        while b"begin" not in received:
            received += sock.recv(65536)
        yield sock


@contextmanager
def running(directory: Path, *options: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Hypercorn's own command, in a process group of its own."""
    (directory / "app.py").write_text(APP)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "hypercorn", *options, "--bind", f"127.0.0.1:{port}", "app:app"]
    environment = os.environ | {"PYTHONWARNINGS": ""}
    with subprocess.Popen(
        command, cwd=directory, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        try:
            yield server, port
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)


def ask(port: int) -> str:
    deadline = time.monotonic() + 20
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                answer = b""
                while data := sock.recv(65536):
                    answer += data
                return answer.decode()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)  # another process: nothing here can wait for it


def test_install_may_be_called_again() -> None:
    install()
    install(Limits(connections=1))
    install()
