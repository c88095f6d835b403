"""Turns with calls as the model wrote them, for when they come back.

A client sends earlier calls as JSON, and the template writes them in its own spelling: other blanks, another
order, no thought. Then nothing behind them is found in the KV cache again. So a turn that comes back
unchanged is given to the template as the text it was, control tokens included, and the prompt goes on token
by token as the answer had ended.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

from corral.events import Block, BlockClosed, BlockCollector, BlockDelta, BlockOpened, Event
from corral.request import GenerationRequest, Message

KEPT_BYTES = 16 * 2**20
TURN_BYTES = 512
"""Of a turn in memory, beside its text."""


@dataclass(frozen=True, slots=True)
class _Turn:
    verbatim: tuple[str, ...]
    content: str
    calls: tuple[tuple[str, str], ...]


class Replays:
    """Kept by the id of a turn's first call, the oldest forgotten first. From any thread."""

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._turns: OrderedDict[str, _Turn] = OrderedDict()
        self._lock = Lock()

    def keep(self, transcript: "Transcript") -> None:
        """Remember a turn, if all of its calls are whole."""
        blocks = transcript.blocks
        calls = [block for block in blocks if block.kind == "tool"]
        if not calls or not calls[0].call_id or not all(call.is_whole for call in calls):
            return
        turn = _Turn(
            transcript.verbatim,
            "".join(block.text for block in blocks if block.kind == "text"),
            tuple((call.name or "", call.text) for call in calls),
        )
        with self._lock:
            self._turns[calls[0].call_id] = turn
            self._bytes += _bytes(turn)
            while self._bytes > self._max_bytes:
                self._bytes -= _bytes(self._turns.popitem(last=False)[1])

    def applied(self, request: GenerationRequest) -> GenerationRequest:
        """The request with those of its turns as they were written that have come back unchanged."""
        if not any(message.tool_calls for message in request.messages):
            return request
        return replace(request, messages=tuple(map(self._applied, request.messages)))

    def _applied(self, message: Message) -> Message:
        if not message.tool_calls:
            return message
        with self._lock:
            turn = self._turns.get(message.tool_calls[0].id)
        if turn is None or turn.content.strip() != message.content.strip():
            return message
        calls = tuple((call.name, call.arguments) for call in message.tool_calls)
        return replace(message, verbatim=turn.verbatim) if _are_equal(calls, turn.calls) else message


class Transcript:
    """What one sequence has said so far. Not thread-safe."""

    def __init__(self) -> None:
        self._texts: list[bytearray] = [bytearray()]
        self._controls: list[str] = []
        self._collector = BlockCollector()

    def heard(self, piece: bytes, control: str, events: Iterable[Event]) -> None:
        """A token: its bytes or, of a control token, its name; and what came of it."""
        if control:
            self._controls.append(control)
            self._texts.append(bytearray())
        else:
            self._texts[-1] += piece
        self.told(events)

    def told(self, events: Iterable[Event]) -> None:
        """What came of it at the end."""
        for event in events:
            if isinstance(event, BlockOpened | BlockDelta | BlockClosed):
                self._collector.feed(event)

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self._collector.blocks

    @property
    def verbatim(self) -> tuple[str, ...]:
        """See `Message.verbatim`."""
        texts = [text.decode(errors="replace") for text in self._texts]
        pairs = zip(self._controls, texts[1:], strict=True)
        return (texts[0], *(part for pair in pairs for part in pair))


def _are_equal(calls: tuple[tuple[str, str], ...], others: tuple[tuple[str, str], ...]) -> bool:
    """As they stand, which most clients leave; else by what they mean. Large ones take long to parse."""
    return calls == others or (
        [name for name, _ in calls] == [name for name, _ in others]
        and all(_parsed(mine) == _parsed(other) for (_, mine), (_, other) in zip(calls, others, strict=True))
    )


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def _bytes(turn: _Turn) -> int:
    return TURN_BYTES + 2 * (sum(map(len, turn.verbatim)) + len(turn.content))
