"""Processes that end with their scope, and those among them that answer a line with a line."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

ROOT = Path(__file__).parents[2]
STOP_LIMIT_S = 20.0


@asynccontextmanager
async def subprocess_of(
    arguments: Sequence[str], env: Mapping[str, str] | None = None, **options: Any
) -> AsyncIterator[trio.Process]:
    """A process that ends with this scope: SIGTERM, and SIGKILL after `STOP_LIMIT_S`.

    `env` is added to this process's own; `options` are those of `subprocess.Popen`.
    """
    process = await trio.lowlevel.open_process(list(arguments), env=os.environ | dict(env or {}), **options)
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


class ProcessEnded(Exception):
    """A process has ended that should have answered."""


class LineProcess:
    """A process that says a line for each line that it is told."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._buffer = b""

    async def ask(self, line: bytes) -> bytes:
        """Its answer to a line. Not cancel-safe: the answer to a cancelled one would be read by the next."""
        await self._stdin.send_all(line + b"\n")
        return await self.line()

    async def line(self) -> bytes:
        """One line of its stdout. Raises ProcessEnded."""
        while (end := self._buffer.find(b"\n")) < 0:
            data = await self._stdout.receive_some()
            if not data:
                raise ProcessEnded("a process ended that should have answered; it says why above")
            self._buffer += data
        line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        return line


@asynccontextmanager
async def program(
    module: str, *arguments: str, env: Mapping[str, str] | None = None
) -> AsyncIterator[LineProcess]:
    """A module of these packages as a process of its own, which has said its first line: that it is ready.

    Raises ProcessEnded when it ended before that.
    """
    command = [sys.executable, "-m", module, *arguments]
    pipe = subprocess.PIPE
    async with subprocess_of(command, env, cwd=ROOT, stdin=pipe, stdout=pipe) as process:
        lines = LineProcess(process)
        await lines.line()
        yield lines
