"""What the model of these tests says: whatever the last message names, in any blocks, with silences.

No model is in it, so everything that a client can be sent is at hand, whatever a small model would do.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import trio

from corral.errors import EngineFailed
from corral.events import (
    BlockClosed,
    BlockDelta,
    BlockKind,
    BlockOpened,
    Event,
    Failed,
    Finished,
    FinishReason,
    Prefill,
    Sampled,
    Started,
    Usage,
)
from corral.request import GenerationRequest

ARGUMENTS = json.dumps({"city": "Oslo", "days": 3}, ensure_ascii=False)
"""Of the call, and what JSON says."""
COMMAND = "echo SAY > said.txt; cat said.txt"
PATCH = "*** Begin Patch\n+ü\n*** End Patch"
CALLS = {
    "CALL": ("get_weather", ARGUMENTS),
    "PATCH": ("apply_patch", json.dumps({"input": PATCH})),
    "RUN": ("exec_command", json.dumps({"cmd": COMMAND})),
    "BASH": ("Bash", json.dumps({"command": COMMAND, "description": "says it"})),
    "SHELL": ("bash", json.dumps({"command": COMMAND, "description": "says it"})),
}
"""Which tool a word calls, and with what."""


@dataclass
class Silence:
    """Where a tale waits. `begun` is called when it does; `end_nowait` comes from the server's own thread."""

    begun: Callable[[], None] = lambda: None
    _events: list[trio.Event] = field(default_factory=list)

    def fall(self) -> trio.Event:
        event = trio.Event()
        self._events.append(event)
        self.begun()
        return event

    def end_nowait(self) -> None:
        for event in self._events:
            event.set()
        self._events.clear()


@dataclass
class Storyteller:
    """Tells by the last message of a user or a tool: the words in capitals are what happens, in their order.

    SAY, JSON, THINK, CALL, PATCH, RUN, BASH, SHELL, SILENCE, SLOW, and at the end one of STOP, which is
    meant if none is there, LENGTH, BREAK and ENDLESS. What the model was asked before it answers is kept in
    `asked`.
    """

    silence: Silence = field(default_factory=Silence)
    slow_s: float = 0.5
    """How long SLOW is silent."""
    asked: list[GenerationRequest] = field(default_factory=list)

    def __call__(
        self, request: GenerationRequest, max_tokens: int
    ) -> Iterable[list[Event] | trio.Event | float]:
        self.asked.append(request)
        asked = [message for message in request.messages if message.role in ("user", "tool")]
        told = asked[-1].content.replace('"', " ").split()
        size = sum(len(message.content.split()) for message in request.messages)
        yield [Prefill(size, size), Started(size, 0)]
        index = said = thought = 0
        has_called = False
        for word in told:
            if word == "SILENCE":
                yield self.silence.fall()
            elif word == "SLOW":
                yield self.slow_s
            elif word == "SAY":
                yield from _block(index, "text", ["Hello ", "there, ", "wörld ☂."])
                index, said = index + 1, said + 3
            elif word == "JSON":
                yield from _block(index, "text", [ARGUMENTS[:9], ARGUMENTS[9:]])
                index, said = index + 1, said + 2
            elif word == "THINK":
                yield from _block(index, "reasoning", ["Let me ", "see."])
                index, said, thought = index + 1, said + 2, thought + 2
            elif word in CALLS:
                name, text = CALLS[word]
                pieces = [text[at : at + 5] for at in range(0, len(text), 5)]
                yield from _block(index, "tool", pieces, call_id=f"call_{index}", name=name)
                index, said, has_called = index + 1, said + len(pieces), True
            elif word == "BREAK":
                yield [BlockOpened(index, "text"), Sampled(1), BlockDelta(index, "well ")]
                yield [Failed(EngineFailed("the storyteller lost the thread"))]
                return
            elif word == "ENDLESS":
                yield [BlockOpened(index, "text")]
                while True:
                    yield [Sampled(1), BlockDelta(index, "and so on ")]
        reason: FinishReason = "tool_calls" if has_called else "length" if "LENGTH" in told else "stop"
        usage = Usage(size, 0, said, reasoning_tokens=thought)
        yield [Finished(reason, None, usage)]


def _block(
    index: int, kind: BlockKind, pieces: list[str], *, call_id: str | None = None, name: str | None = None
) -> Iterator[list[Event]]:
    yield [BlockOpened(index, kind, call_id, name)]
    for piece in pieces:
        yield [Sampled(1), BlockDelta(index, piece)]
    yield [BlockClosed(index)]
