"""One process that writes prompts, as the event loop sees it: frames go in, and answers come out."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

import trio

from corral.engine.local.prompts import wire

_RECEIVE_BYTES = 64 * 2**10


class Died(Exception):
    """The process has ended without an answer, by the signal or exit code that the message names."""


class PromptProcess:
    """A child process. Starting it takes a few milliseconds; until it is ready, some tenths of a second.

    It also ends by itself once nobody holds the other end of its input.
    """

    def __init__(self, command: Sequence[str]) -> None:
        """Start it. Blocks for some milliseconds; from any thread. Raises OSError."""
        environment = {
            **os.environ,
            "GGML_NO_BACKTRACE": "1",  # else a debugger is started, whose helpers can wait for each other
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # the same corral as here
        }
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            bufsize=0,
            process_group=0,  # an interrupt from the keyboard is for the server
        )
        self._in: trio.lowlevel.FdStream | None = None
        self._out: trio.lowlevel.FdStream | None = None
        self._received = bytearray()

    @property
    def pid(self) -> int:
        return self._child.pid

    def open(self) -> None:
        """Take hold of its input and output; on the event loop's thread."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._in = trio.lowlevel.FdStream(os.dup(self._child.stdin.fileno()))
        self._out = trio.lowlevel.FdStream(os.dup(self._child.stdout.fileno()))
        self._child.stdin.close()
        self._child.stdout.close()

    async def send(self, frame: bytes) -> None:
        """Raises Died. Once cancelled, the process is of no use any more."""
        assert self._in is not None
        try:
            await self._in.send_all(frame)
        except trio.BrokenResourceError:
            raise await self._death() from None

    async def answer(self) -> wire.Answer:
        """The next answer. Raises Died. Once cancelled, the process is of no use any more."""
        size = wire.HEADER.size
        _, length = wire.HEADER.unpack(await self._exactly(size))
        return wire.decode_answer(await self._exactly(length))

    async def end(self) -> None:
        """Kill it, and return when it is gone; harmless if it is. Cancelling leaves that to the system."""
        self._let_go()
        await trio.to_thread.run_sync(self._child.wait, abandon_on_cancel=True)

    def end_nowait(self) -> None:
        """As `end`; blocks for the milliseconds that it takes."""
        self._let_go()
        self._child.wait()

    def _let_go(self) -> None:
        self._child.kill()
        for pipe in (self._child.stdin, self._child.stdout, self._in, self._out):
            if pipe is not None:
                pipe.close()

    async def _exactly(self, length: int) -> bytes:
        assert self._out is not None
        while len(self._received) < length:
            received = await self._out.receive_some(_RECEIVE_BYTES)
            if not received:
                raise await self._death()
            self._received += received
        taken = bytes(self._received[:length])
        del self._received[:length]
        return taken

    async def _death(self) -> Died:
        code = await trio.to_thread.run_sync(self._child.wait, abandon_on_cancel=True)
        try:
            return Died(signal.Signals(-code).name)
        except ValueError:
            return Died(f"exit code {code}")
