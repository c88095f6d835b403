"""Grammars are compiled in a process that may die of them before they are compiled in the server.

    trials = Trials(Shape(...))
    trials.check(grammar)       # Unfollowable says why not

Twenty rules that are joined by `&` are 400 bytes of Lark, and each more of them doubles the seconds and the
gigabytes that llguidance takes. Nothing ends a compilation but the end of its process.
"""

import os
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from typing import Final

import msgspec

from corral.engine.local.grammars.child import LENGTH, Shape, frame
from corral.engine.local.grammars.source import Unfollowable
from corral.request import Grammar

WALL_S: Final = 60.0
"""What a trial may take where it hardly gets the processor. Its own bound is of the time that it has that."""
TOO_MUCH: Final = "compiling it takes too much time or memory"
_COMMAND: Final = (sys.executable, "-P", "-m", "corral.engine.local.grammars.child")


class Trials:
    """The processes: one for each that is under way at a time, started when it is needed (0.2 s) and kept.

    Thread-safe. They end with it, at the latest when the server does.
    """

    def __init__(self, shape: Shape) -> None:
        self._shape = frame(msgspec.msgpack.encode(shape))
        self._idle: list[subprocess.Popen[bytes]] = []
        weakref.finalize(self, _end_all, self._idle)

    def check(self, grammar: Grammar) -> None:
        """Compile it elsewhere. Blocks for as long as that takes, some milliseconds mostly.

        Raises Unfollowable if it cannot be followed, or takes more time or memory than one may.
        """
        child = self._taken()
        try:
            problem = _answer(child, frame(msgspec.msgpack.encode(grammar)))
        except BaseException:
            _end(child)
            raise
        self._idle.append(child)
        if problem:
            raise Unfollowable(problem)

    def _taken(self) -> subprocess.Popen[bytes]:
        """One that waits for work, or else a new one."""
        while True:
            try:
                child = self._idle.pop()
            except IndexError:
                return _started(self._shape)
            if child.poll() is None:
                return child
            _end(child)  # by somebody else


def _started(shape: bytes) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        _COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # it tells what it dies of there, in as many lines as it likes
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # the same corral as here
        process_group=None if sys.platform == "win32" else 0,  # an interrupt is for the server
    )
    _send(child, shape)
    return child


def _answer(child: subprocess.Popen[bytes], asked: bytes) -> str:
    """What it answers. Raises Unfollowable where it dies instead."""
    timer = threading.Timer(WALL_S, child.kill)
    timer.daemon = True
    timer.start()
    try:
        _send(child, asked)
        assert child.stdout is not None
        header = child.stdout.read(LENGTH.size)
        if len(header) < LENGTH.size:
            raise Unfollowable(TOO_MUCH)
        [length] = LENGTH.unpack(header)
        return child.stdout.read(length).decode()
    finally:
        timer.cancel()


def _send(child: subprocess.Popen[bytes], data: bytes) -> None:
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # it is dead, which its silence tells
        child.stdin.write(data)
        child.stdin.flush()


def _end_all(children: list[subprocess.Popen[bytes]]) -> None:
    while children:
        _end(children.pop())


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    for pipe in (child.stdin, child.stdout):
        assert pipe is not None
        with suppress(BrokenPipeError):
            pipe.close()
    child.wait()
