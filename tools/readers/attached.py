"""A crowd of readers (crowd.py) as a process of its own, attached to a server while a block lasts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from tools.clients.target import Target
from tools.readers.crowd import Group, Look, Seen
from tools.servers.process import LineProcess, program


class Readers:
    """Those who are attached. Its methods are not cancel-safe: cancel the block around it."""

    def __init__(self, lines: LineProcess) -> None:
        self._lines = lines

    async def join(self, group: Group) -> None:
        """Attach more; returns when all have their first bytes. Raises ProcessEnded when they get none."""
        await self._lines.ask(msgspec.json.encode(group))

    async def seen(self) -> Seen:
        """What all have seen since they were asked last, or since the last one came."""
        return msgspec.json.decode(await self._lines.ask(msgspec.json.encode(Look())), type=Seen)


@asynccontextmanager
async def attached(target: Target, *groups: Group) -> AsyncIterator[Readers]:
    """The groups, one after the other. They leave with the block."""
    address = ("--host", target.host, "--port", str(target.port))
    async with program("tools.readers.crowd", *address) as lines:
        readers = Readers(lines)
        for group in groups:
            await readers.join(group)
        yield readers
