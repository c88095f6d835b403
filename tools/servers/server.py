"""A server under test as a subprocess: started on a free port, waited for, stopped."""

import os
import shlex
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import msgspec
import trio

from tools.clients.connection import get_json
from tools.clients.framing import FramingError
from tools.clients.target import Target
from tools.servers.process import subprocess_of

DEFAULT_COMMAND = f"{shlex.quote(sys.executable)} -m corral serve --bind 127.0.0.1:{{port}}"
_SCRIPTED = Path(__file__).with_name("scripted.py")  # by its path: so it starts from any directory
SCRIPTED_COMMAND = f"{shlex.join([sys.executable, str(_SCRIPTED)])} --port {{port}}"
START_LIMIT_S = 60.0


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
    env: Mapping[str, str] | None = None,
    health_path: str = "/health",
    log: IO[bytes] | None = None,
    port: int | None = None,
) -> AsyncIterator[Server]:
    """Start `command` ({port} is filled in) with `flags`, wait until it answers, terminate it at the end.

    It has a free port, unless it is to have this `port`.

    What it writes goes to `log`, which stays open, or else to a file of its own that goes with it.

    Raises SystemExit with the end of its log when it does not come up within a minute.
    """
    port = port or free_port()
    arguments = [part.replace("{port}", str(port)) for part in shlex.split(command)] + list(flags)
    with TemporaryFile() if log is None else nullcontext(log) as written:
        async with subprocess_of(arguments, env, stdout=written, stderr=written) as process:
            server = Server(process, Target("127.0.0.1", port), written)
            await _until_healthy(server, health_path)
            server.target = Target("127.0.0.1", port, model=await served_model(server.target))
            yield server


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
