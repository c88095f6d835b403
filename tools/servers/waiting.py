"""An engine behind HTTP that waits instead of computing, and shows itself as llama-server does.

    python tools/servers/waiting.py --port 8081 --slots 4 --gap-ms 10 --prefill-tok-s 4000

A stream has its first token after its prompt's words at --prefill-tok-s, and then one every --gap-ms,
whatever else runs. Those past --slots wait in line. With no gap it writes as fast as it is read, some tokens
at a time, so that what stands in front of it is what is measured. Nothing here computes: two of them are
twice one.

Needs nothing of tools/ but itself, so that it can be started by its path.
"""

import argparse
import json
import sys
from functools import partial

import trio

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
AT_ONCE = 8
"""Events in one write, where there is no gap."""


def chunk(value: object) -> bytes:
    """An event of a stream as a chunk of HTTP/1.1."""
    data = b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


TOKEN = chunk({"choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}]})
FINISH = chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})


def whole(value: object, status: int = 200) -> bytes:
    """An answer that is no stream."""
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Engine:
    """What runs, and what is asked of it."""

    def __init__(self, slots: int, gap_s: float, prefill_tok_s: float) -> None:
        self._slots = slots
        self._gap_s = gap_s
        self._prefill_tok_s = prefill_tok_s
        self._limiter = trio.CapacityLimiter(slots)

    async def handle(self, stream: trio.SocketStream) -> None:
        """One connection, which has one request."""
        try:
            head, body = await self._request(stream)
            path = head.split(b" ")[1] if b" " in head else b""
            if body:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._until_gone, stream, nursery.cancel_scope)
                    await self._answer(stream, json.loads(body))
                    nursery.cancel_scope.cancel()
            elif path:
                await stream.send_all(self._told(path))
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await stream.aclose()

    async def _answer(self, stream: trio.SocketStream, asked: dict[str, object]) -> None:
        words = len(json.dumps(asked.get("messages") or "").split())
        limit = asked.get("max_tokens")
        tokens = limit if isinstance(limit, int) else 64
        async with self._limiter:
            await trio.sleep(words / self._prefill_tok_s)
            await stream.send_all(HEAD)
            left = tokens
            while left:
                count = 1 if self._gap_s else min(AT_ONCE, left)
                await stream.send_all(TOKEN * count)
                left -= count
                await trio.sleep(self._gap_s)
            usage = {"prompt_tokens": words, "completion_tokens": tokens}
            await stream.send_all(
                FINISH + chunk({"choices": [], "usage": usage}) + chunk(b"[DONE]") + b"0\r\n\r\n"
            )

    async def _until_gone(self, stream: trio.SocketStream, answering: trio.CancelScope) -> None:
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
        answering.cancel()

    async def _request(self, stream: trio.SocketStream) -> tuple[bytes, bytes]:
        request = b""
        while True:
            head, end, body = request.partition(b"\r\n\r\n")
            sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if end and len(body) >= (int(sizes[0].partition(b":")[2]) if sizes else 0):
                return head, body
            data = await stream.receive_some()
            if not data:
                return b"", b""
            request += data

    def _told(self, path: bytes) -> bytes:
        match path:
            case b"/v1/models":
                return whole({"data": [{"id": "waiting", "owned_by": "llamacpp"}]})
            case b"/props":
                return whole({"total_slots": self._slots, "default_generation_settings": {"n_ctx": 65_536}})
            case b"/slots":
                busy = self._limiter.borrowed_tokens
                return whole([{"is_processing": number < busy} for number in range(self._slots)])
            case b"/health":
                return whole({"status": "ok"})
            case _:
                return whole({}, 404)


def main() -> int:
    """Serve until it is ended."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--gap-ms", type=float, default=10.0)
    parser.add_argument("--prefill-tok-s", type=float, default=4000.0)
    args = parser.parse_args()
    engine = Engine(args.slots, args.gap_ms / 1e3, args.prefill_tok_s)
    trio.run(partial(trio.serve_tcp, engine.handle, args.port, host="127.0.0.1"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
