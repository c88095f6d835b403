"""A reader of /status/events for the tests: it keeps the page's picture by the documented rules."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from tests.harness import Client, Exchange, Gate

from corral.books.record import Record


@asynccontextmanager
async def opening(gate: Gate) -> AsyncIterator[None]:
    """Let everything through at the end, or a failed assertion would hang in the engine."""
    try:
        yield
    finally:
        gate.open()


class Watch:
    """A reader of /status/events that keeps the page's picture by the documented rules."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.state: dict[str, Any] = {}
        self.rights: dict[str, bool] = {}
        self.events: list[tuple[str, Any]] = []
        self.raw = b""
        self.last_id = ""

    def text(self, request: int = 0, choice: int = 0) -> str:
        """What one of the running requests has said, thoughts and calls included."""
        return "".join(block["text"] for block in self.state["requests"][request]["output"][choice])

    async def until(self, condition: Callable[["Watch"], Any]) -> None:
        while not condition(self):
            self._take(await self.exchange.chunk())

    def take_waiting(self) -> None:
        """What has come, without waiting for more."""
        while True:
            try:
                self._take(self.exchange._chunks.receive_nowait())
            except trio.WouldBlock:
                return

    def request(self, id: str) -> dict[str, Any]:
        return next(request for request in self.state["requests"] if request["id"] == id)

    def _take(self, data: bytes) -> None:
        self.raw += data
        assert data.endswith(b"\n\n")
        for frame in data.decode().split("\n\n")[:-1]:
            if frame.startswith((":", "retry:")):
                continue
            *ids, event, payload = frame.split("\n")
            for id in ids:
                self.last_id = id.removeprefix("id: ")
            self._apply(event.removeprefix("event: "), json.loads(payload.removeprefix("data: ")))

    def _apply(self, event: str, data: Any) -> None:
        self.events.append((event, data))
        match event:
            case "snapshot":
                self.state = data
            case "server":
                self.state.update(data)
            case "rights":
                self.rights = data
            case "queue":
                self.state["queue"] = data
            case "token":
                blocks = self.request(data["id"])["output"][data["index"]]
                number = data.get("block", 0)
                if number == len(blocks):
                    known = {name: data[name] for name in ("kind", "name") if name in data}
                    blocks.append({"text": "", **known})
                blocks[number]["text"] += data["text"]
            case "refusals":
                self.state["refusals"] += data
            case "bucket":
                for name, column in self.state["hour"]["columns"].items():
                    column.append(data[name])
            case "finished":
                self.state["history"].append(data)
                self.state["requests"] = [r for r in self.state["requests"] if r["id"] != data["id"]]
            case "request":
                known = {request["id"]: request for request in self.state["requests"]}
                known.setdefault(data["id"], {"output": [[] for _ in range(8)]}).update(data)
                self.state["requests"] = list(known.values())


@asynccontextmanager
async def watching(client: Client, **headers: str) -> AsyncIterator[Watch]:
    watch = Watch(client.send("GET", "/status/events", headers=headers))
    try:
        await watch.until(lambda watch: watch.state)
        yield watch
    finally:
        watch.exchange.leave()
        await watch.exchange.is_over.wait()  # noqa: ASYNC102  # it has just been left


def settled(client: Client) -> list[Record]:
    records: list[Record] = []
    client.service.ledger.on_settled.append(records.append)
    return records
