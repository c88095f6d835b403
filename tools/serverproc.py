"""A server under test as a subprocess: started on a free port, waited for, watched through /proc, stopped."""

import os
import shlex
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import msgspec
import trio

from http1 import FramingError
from loadclient import Target, get_json

DEFAULT_COMMAND = f"{shlex.quote(sys.executable)} -m corral serve --bind 127.0.0.1:{{port}}"
_SCRIPTED = Path(__file__).with_name("serve_scripted.py")
SCRIPTED_COMMAND = f"{shlex.join([sys.executable, str(_SCRIPTED)])} --port {{port}}"
START_LIMIT_S = 60.0
STOP_LIMIT_S = 20.0


class _ModelCard(msgspec.Struct):
    id: str


class _ModelList(msgspec.Struct):
    data: list[_ModelCard]


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class ThreadTime:
    """CPU seconds of one thread."""

    tid: int
    name: str
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds at one moment."""

    rss_bytes: int
    descriptors: int
    threads: int


def thread_times(pid: int) -> list[ThreadTime]:
    """CPU time of every living thread, in nanoseconds (schedstat), by thread id; the first is main."""
    times = []
    for task in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda path: int(path.name)):
        try:
            spent_ns = int((task / "schedstat").read_text().split()[0])
            times.append(ThreadTime(int(task.name), (task / "comm").read_text().strip(), spent_ns / 1e9))
        except OSError:
            continue  # it ended between the listing and the reading
    return times


def footprint(pid: int) -> Footprint:
    """Resident memory, open descriptors and threads of a process. Raises OSError when it is gone."""
    resident_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Footprint(
        rss_bytes=resident_pages * os.sysconf("SC_PAGE_SIZE"),
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=len(os.listdir(f"/proc/{pid}/task")),
    )


@dataclass(slots=True)
class Server:
    """A running server. `target` is where its API is; `log` has what it wrote."""

    process: trio.Process
    target: Target
    log: IO[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def log_tail(self, size_bytes: int = 3000) -> str:
        """The end of what the server printed."""
        end = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, end - size_bytes))
        return self.log.read().decode(errors="replace")


async def served_model(target: Target) -> str:
    """The first model the server lists; "default" if it lists none. Raises OSError, FramingError."""
    status, body = await get_json(target, f"{target.path}/models")
    try:
        return msgspec.json.decode(body, type=_ModelList).data[0].id if status == 200 else "default"
    except (msgspec.MsgspecError, IndexError):
        return "default"


@asynccontextmanager
async def serve(
    command: str = DEFAULT_COMMAND,
    flags: Sequence[str] = (),
    *,
    env: dict[str, str] | None = None,
    health_path: str = "/health",
) -> AsyncIterator[Server]:
    """Start `command` ({port} is filled in) with `flags`, wait until it answers, terminate it at the end.

    Raises SystemExit with the end of its log when it does not come up within a minute.
    """
    port = free_port()
    arguments = [part.replace("{port}", str(port)) for part in shlex.split(command)] + list(flags)
    with TemporaryFile() as log:
        async with subprocess_of(arguments, env, stdout=log, stderr=log) as process:
            server = Server(process, Target("127.0.0.1", port), log)
            await _until_healthy(server, health_path)
            server.target = Target("127.0.0.1", port, model=await served_model(server.target))
            yield server


@dataclass(frozen=True, slots=True)
class Bed:
    """Where a figure is measured: servers started by `command` with `flags`, or a running `peer`.

    `repeats` is how often each measurement is made.
    """

    command: str
    flags: tuple[str, ...]
    repeats: int
    peer: Target | None = None

    @asynccontextmanager
    async def server(self, *flags: str, env: dict[str, str] | None = None) -> AsyncIterator[Target]:
        """A server with more `flags` before the user's own, or the peer as it is."""
        if self.peer is not None:
            yield self.peer
            return
        async with serve(self.command, [*flags, *self.flags], env=env) as server:
            yield server.target


@asynccontextmanager
async def subprocess_of(
    arguments: Sequence[str], env: Mapping[str, str] | None, **streams: Any
) -> AsyncIterator[trio.Process]:
    """A process that ends with this scope: SIGTERM, and SIGKILL after `STOP_LIMIT_S`."""
    process = await trio.lowlevel.open_process(list(arguments), env=os.environ | dict(env or {}), **streams)
    try:
        yield process
    finally:
        process.terminate()
        with trio.move_on_after(STOP_LIMIT_S, shield=True):
            await process.wait()
        if process.returncode is None:
            process.kill()
            with trio.move_on_after(STOP_LIMIT_S, shield=True):
                await process.wait()


async def _until_healthy(server: Server, path: str) -> None:
    with trio.move_on_after(START_LIMIT_S):
        while server.process.returncode is None:
            try:
                status, _ = await get_json(server.target, path)
            except (OSError, FramingError):
                status = 0
            if status == 200:
                return
            await trio.sleep(0.05)
    raise SystemExit(f"the server did not come up:\n{server.log_tail()}")
