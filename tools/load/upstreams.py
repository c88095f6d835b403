"""Upstreams for a soak that are killed in turn and come back, and what the server in front says of them."""

import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from typing import Final

import msgspec
import trio

from tools.clients.connection import get_json
from tools.clients.target import Target
from tools.servers.server import Server, free_port, serve

BACK_LIMIT_S: Final = 120.0


class ReplicaSeen(msgspec.Struct, frozen=True):
    """One upstream, as the server in front shows it."""

    name: str
    state: str
    in_flight: int
    work_tokens: int
    openings: int


class _Totals(msgspec.Struct, frozen=True):
    by_outcome: dict[str, int]


class _Request(msgspec.Struct, frozen=True):
    id: str


class Told(msgspec.Struct, frozen=True):
    """What /status says, of a server with upstreams or of one of these."""

    totals: _Totals
    requests: list[_Request]
    replicas: list[ReplicaSeen] = []

    @property
    def failed(self) -> int:
        """Answers that broke off."""
        return self.totals.by_outcome.get("failed", 0)

    @property
    def whole(self) -> int:
        """Answers that it takes to be whole, and read."""
        by_outcome = self.totals.by_outcome
        return sum(by_outcome.get(outcome, 0) for outcome in ("stop", "length"))


async def told(server: Target) -> Told:
    """Its /status. Raises OSError, FramingError, ValueError."""
    _, body = await get_json(server, "/status/json")
    return msgspec.json.decode(body, type=Told)


class Upstreams:
    """Made by `upstreams`. `killed` grows."""

    def __init__(self, command: str, flags: Sequence[str], count: int, down_s: float) -> None:
        self.killed = 0
        self._command = command
        self._flags = flags
        self._down_s = down_s
        self._ports = [free_port() for _ in range(count)]
        self._running: dict[int, Server] = {}

    @property
    def urls(self) -> str:
        """As `--upstream` takes them."""
        return ",".join(f"http://127.0.0.1:{port}" for port in self._ports)

    @property
    def targets(self) -> list[Target]:
        return [server.target for server in self._running.values()]

    async def stay(self, number: int, *, task_status: trio.TaskStatus[None]) -> None:
        """Run one of them, again and again, until cancelled."""
        port = self._ports[number]
        is_first = True
        while True:
            async with serve(self._command, self._flags, port=port) as server:
                self._running[port] = server
                if is_first:
                    task_status.started()
                    is_first = False
                await server.process.wait()
                del self._running[port]
            await trio.sleep(self._down_s)

    async def kill(self, every_s: float) -> None:
        """One of them in turn, by SIGKILL, until cancelled."""
        for port in cycle(self._ports):
            await trio.sleep(every_s)
            if (server := self._running.get(port)) is not None:
                os.kill(server.pid, signal.SIGKILL)
                self.killed += 1

    async def all_back(self, front: Target) -> Told:
        """Wait until the server in front gives each of them requests, and has none itself; what it says then.

        After BACK_LIMIT_S it says what is not so.
        """
        seen = await told(front)
        with trio.move_on_after(BACK_LIMIT_S):
            while seen.requests or any(replica.state != "in service" for replica in seen.replicas):
                await trio.sleep(0.1)  # another process
                seen = await told(front)
        return seen


@asynccontextmanager
async def upstreams(
    command: str, flags: Sequence[str], count: int, *, down_s: float = 3.0
) -> AsyncIterator[Upstreams]:
    """So many servers, each on a port that it keeps. One that was killed is not there for `down_s`."""
    running = Upstreams(command, flags, count, down_s)
    async with trio.open_nursery() as nursery:
        for number in range(count):
            await nursery.start(running.stay, number)
        yield running
        nursery.cancel_scope.cancel()
