"""What the figures of the transport have in common: how much is measured, and on which server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from benchrun import PromptSource
from http1 import request_bytes
from loadclient import Chat, Target
from serverproc import SCRIPTED_COMMAND, Server, serve

UNLIMITED_LAG = ("--subscriber-events=1000000", f"--subscriber-bytes={2**30}")
"""Then a reader is evicted for not reading, not for lagging: that counts steps, and the scripted engine's are
shorter than those of a real one with so many streams."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything is measured."""

    rounds: int = 200
    """Clients that leave, of each kind."""
    stalled: int = 50
    """Stalled readers, to be evicted and beside healthy streams."""
    healthy: int = 8
    healthy_tokens: int = 550
    """Of each healthy stream, in each turn: so many that stalled readers are evicted in it, and come back."""
    repeats: int = 3
    """Turns with stalled readers, and as many without."""
    idle: int = 500
    """Idle SSE connections, of each kind."""
    subscribers: tuple[int, ...] = (100, 500, 1000)
    window_s: float = 4.0
    """For how long events are counted."""
    settle_s: float = 3.0
    """After the last reader came, before memory is looked at or events are counted."""
    shutdowns: int = 3
    shutdown_stalled: int = 20


QUICK = Plan(
    rounds=4,
    stalled=4,
    healthy=2,
    healthy_tokens=20,
    repeats=1,
    idle=10,
    subscribers=(5,),
    window_s=0.3,
    settle_s=0.2,
    shutdowns=1,
    shutdown_stalled=2,
)
"""So little that the figures mean nothing: to see that they can be measured."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where it is measured: servers started one after the other by `command`, None for the scripted one."""

    command: str | None = None

    @asynccontextmanager
    async def server(self, *flags: str, step_ms: float, is_steady: bool = False) -> AsyncIterator[Server]:
        """A server with these settings.

        Where it is the scripted one, its engine sleeps `step_ms` per step or, `is_steady`, begins one every
        `step_ms`, whatever is in it.
        """
        steps = [f"--step-ms={step_ms:g}"] if self.command is None else []
        if is_steady and steps:
            steps.append("--steady")
        async with serve(self.command or SCRIPTED_COMMAND, [*flags, *steps]) as server:
            yield server


class Asker:
    """Makes chat requests that were never made before in this run, ready for the wire."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._prompts = PromptSource()

    def stream(self, output_tokens: int, *, words: int = 0) -> bytes:
        """A request for a stream of `output_tokens`; its prompt has `words` more words than 25."""
        [prompt] = self._prompts.take(1, words=words)
        body = Chat(prompt, output_tokens, temperature=0.0, stream=True).body(self._target.model)
        head = self._target.headers | {"content-type": "application/json"}
        return request_bytes("POST", f"{self._target.path}/chat/completions", head, body)

    def watch(self, path: str = "/status/events") -> bytes:
        """A request for the status stream."""
        return request_bytes("GET", path, self._target.headers)
