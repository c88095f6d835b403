"""Clients that mean harm: what each sends is drawn by lot, and it goes soon whatever comes back."""

import json
import random
from collections.abc import Callable
from typing import Final

import trio

from tools.clients.connection import Line, connect
from tools.clients.flood import FLOODS
from tools.clients.framing import request_bytes
from tools.clients.habits import Leave
from tools.clients.target import Target

LIMIT_S = 3.0
FLOOD_S = 0.5
FLOOD_BYTES = 65_536
MARKERS = "<|im_start|>system\n<|im_end|></s>[INST]<think></think><tool_call>{{ 1 }}{% for x in y %}"
PATHS = (
    "/v1/chat/completions",
    "/v1/messages",
    "/v1/responses",
    "/v1/completions",
    "/tokenize",
    "/v1/nothing",
)
HEADS: Final = (
    b"",
    b"\0\0\0\0",
    b"GET",
    b"NONSENSE\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /" + b"a" * 40_000,
    b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
    b"\x16\x03\x01\x02\x00" + b"x" * 512,
)
"""Beginnings of connections that are no HTTP, or none that can be answered well."""

BODIES: Final[tuple[Callable[[], str], ...]] = (
    lambda: "[" * 100_000,
    lambda: "{" + '"a":{' * 50_000,
    lambda: _asking("x" * 1_000_000),
    lambda: _asking("word " * 100_000),
    lambda: json.dumps({"messages": [{"role": "user", "content": ""}] * 20_000}),
    lambda: _asking(MARKERS * 20, stop=[MARKERS[:30]] * 4, n=8),
    lambda: _asking("hi", n=10**30),
    lambda: _asking("hi", max_tokens=1e308),
    lambda: _asking("hi", temperature=float("nan")),
    lambda: _asking("\ud800"),
    lambda: _asking("hi", guided_regex="((a*)*)*" * 200),
    lambda: _asking("hi", response_format={"type": "json_schema", "json_schema": _endless_schema()}),
    lambda: _asking("hi", tools=[{"type": "function", "function": {"name": MARKERS, "parameters": []}}]),
    lambda: _asking("hi", logit_bias={str(token): 100 for token in range(300)}),
    lambda: _asking(None),
    lambda: "null",
    lambda: "",
)


def _asking(content: str | None, **fields: object) -> str:
    messages = [{"role": "user", "content": content}]
    return json.dumps({"model": "m", "max_tokens": 4, "messages": messages, "input": content, **fields})


def _endless_schema() -> dict[str, object]:
    itself = {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"allOf": [{"$ref": "#"}] * 20}}}
    return {"name": "endless", "schema": itself}


async def offend(target: Target, chance: random.Random, *, limit_s: float = LIMIT_S) -> str:
    """One of them, for `limit_s` at most: what it did, and the status it was told, if any."""
    kind = chance.choice(("head", "body", "body", "half", "trickle", "flood", "hurry"))
    status: int | None = None
    try:
        with trio.move_on_after(limit_s):
            async with connect(target) as line:
                match kind:
                    case "head":
                        status = await _tell(line, chance.choice(HEADS))
                    case "body":
                        status = await _tell(line, _request(target, chance))
                    case "half":
                        whole = _request(target, chance)
                        await line.send(whole[: chance.randrange(1, len(whole))])
                        await trio.sleep(chance.uniform(0, limit_s))
                    case "trickle":
                        await line.send(_request(target, chance), bytes_s=chance.choice([20, 2000]))
                    case "flood":
                        await _flood(line, *chance.choice(list(FLOODS.values())))
                    case _:
                        pass
                line.leave(chance.choice([Leave.FIN, Leave.RST]))
    except (OSError, trio.BrokenResourceError):
        pass  # it was cut off
    return f"{kind}: {status or 'no answer'}"


async def rehearse(target: Target, clients: int, each: int, chance: random.Random) -> None:
    """So many of them from each of some clients at once: what they need of a server is there then."""

    async def again() -> None:
        for _ in range(each):
            await offend(target, chance)

    async with trio.open_nursery() as nursery:
        for _ in range(clients):
            nursery.start_soon(again)


def _request(target: Target, chance: random.Random) -> bytes:
    body = chance.choice(BODIES)().encode("utf-8", "surrogatepass")
    if chance.random() < 0.2:
        at = chance.randrange(len(body) + 1)
        body = body[:at] + chance.randbytes(3) + body[at:]
    head = target.headers | {"content-type": "application/json"}
    return request_bytes("POST", chance.choice(PATHS), head, body)


async def _tell(line: Line, data: bytes) -> int | None:
    """Send it all, and read until there is a status; None where the answer has none."""
    await line.send(data)
    received = b""
    while len(received) < 12:
        piece = await line.receive()
        if not piece:
            return None
        received += piece
    digits = received[9:12]
    return int(digits) if received.startswith(b"HTTP/1.1 ") and digits.isdigit() else None


async def _flood(line: Line, opening: bytes, again: bytes) -> None:
    with trio.move_on_after(FLOOD_S):
        await line.send(opening)
        while again:
            await line.send(again * (FLOOD_BYTES // len(again) + 1))
