"""Where figures are measured: on servers started one after the other, or on one that runs already."""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tools.clients.target import Target
from tools.servers.server import DEFAULT_COMMAND, SCRIPTED_COMMAND, Server, serve

UNLIMITED_LAG = (f"--reader-bytes={2**32}",)
"""Then a reader is evicted for not reading, not for lagging: that counts steps, and the scripted engine's are
shorter than those of a real one with so many streams."""


@dataclass(frozen=True, slots=True)
class Bed:
    """Where figures are measured.

    `command` starts every server; None: corral, on the scripted engine where a figure asks for that. `flags`
    are the user's own, after those of the figure. `model` (a GGUF file; None: the server's default) and
    `threads` are for corral and for the raw loop. `peer` is a running server to be compared with or measured;
    `peer_command` starts one for each size that a figure needs ({port}, {slots} and {ctx_tokens} are filled
    in), and `router_command` another router in front of such ({port} and {urls} are).
    """

    command: str | None = None
    flags: tuple[str, ...] = ()
    model: Path | None = None
    threads: int = 2
    peer: Target | None = None
    peer_command: str | None = None
    router_command: str | None = None

    @property
    def model_file(self) -> Path:
        """What the server has loaded, as long as its command is ours: an absolute path."""
        if self.model is not None:
            return self.model.absolute()
        from corral.engine.local.llama.modelfile import resolve  # it takes a second, and few figures need it

        return resolve(None).path

    @asynccontextmanager
    async def server(
        self, *flags: str, env: Mapping[str, str] | None = None, log: IO[bytes] | None = None
    ) -> AsyncIterator[Server]:
        """A server on a real model, which writes to `log`. Raises SystemExit where it does not come up."""
        own = [] if self.command else ["--threads", str(self.threads)]
        if own and self.model is not None:
            own += ["--model", str(self.model)]
        command = self.command or DEFAULT_COMMAND
        async with serve(command, [*flags, *own, *self.flags], env=env, log=log) as server:
            yield server

    @asynccontextmanager
    async def target(self, *flags: str) -> AsyncIterator[Target]:
        """The peer as it is, or else where a server of our own listens."""
        if self.peer is not None:
            yield self.peer
            return
        async with self.server(*flags) as server:
            yield server.target

    @asynccontextmanager
    async def rival(self, slots: int, ctx_tokens: int) -> AsyncIterator[Target | None]:
        """The peer as it is, or one started by its command; None where there is neither."""
        if self.peer is not None or self.peer_command is None:
            yield self.peer
            return
        command = self.peer_command.replace("{slots}", str(slots)).replace("{ctx_tokens}", str(ctx_tokens))
        async with serve(command) as server:
            yield server.target

    @asynccontextmanager
    async def scripted(
        self,
        *flags: str,
        step_ms: float,
        is_steady: bool = False,
        script: str = "noise",
        env: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Server]:
        """A server on the scripted engine, unless `command` starts another one.

        The engine sleeps `step_ms` per step or, `is_steady`, begins one every `step_ms`, whatever is in it.
        """
        own = [] if self.command else [f"--step-ms={step_ms:g}", f"--script={script}"]
        if own and is_steady:
            own.append("--steady")
        async with serve(self.command or SCRIPTED_COMMAND, [*flags, *own, *self.flags], env=env) as server:
            yield server


def dot() -> None:
    """Show that something goes on."""
    print(".", end="", file=sys.stderr, flush=True)
