"""From tokens to the blocks of an answer: bytes to text, text to blocks, stop strings in what is shown as
text.

    token -> bytes -> UTF-8 -> BlockParser -> stop strings (text blocks only) -> events

A stop string ends what the model says to the user. In a thought, or in the arguments of a call, the same
characters are no end: they would cut a call in two.
"""

import codecs
from collections.abc import Callable
from dataclasses import dataclass

from corral.decoding.blocks import BlockParser
from corral.decoding.markers import Markers
from corral.decoding.stops import StopFinder
from corral.events import BlockClosed, BlockDelta, BlockKind, BlockOpened, Event, FinishReason, TokenLogprob
from corral.request import Tool

_utf8 = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How an answer is read: by the model's markers, behind a prompt that ends like `prompt`.

    Only the `tools` given to the model can be called, and with `one_call` only one of them.
    """

    markers: Markers
    tools: tuple[Tool, ...] = ()
    prompt: str = ""
    one_call: bool = False

    def decoder(
        self, stop: tuple[str, ...], *, includes_stop: bool, new_id: Callable[[], str]
    ) -> "AnswerDecoder":
        """A decoder for one sequence; `new_id` gives each call its id."""
        parser = BlockParser(self.markers, self.tools, prompt=self.prompt, new_id=new_id)
        return AnswerDecoder(parser, stop, one_call=self.one_call, includes_stop=includes_stop)


class AnswerDecoder:
    """One sequence's tokens as the events of its blocks. Not thread-safe, never blocks, never raises.

    Log probabilities travel with the text that is shown next; those of thoughts and calls are left out,
    as there is no place for them in any API. With `one_call` the answer ends where its first call does.
    """

    __slots__ = (
        "_held_tokens",
        "_includes_stop",
        "_kind",
        "_logprobs",
        "_one_call",
        "_parser",
        "_stop",
        "_stops",
        "_utf8",
        "reasoning_tokens",
        "stopped",
    )

    def __init__(
        self,
        parser: BlockParser,
        stop: tuple[str, ...],
        *,
        one_call: bool = False,
        includes_stop: bool = False,
    ) -> None:
        """Raises ValueError for an empty stop string."""
        self._parser = parser
        self._stop = stop
        self._includes_stop = includes_stop
        self._stops = self._stop_finder()
        self._one_call = one_call
        self._utf8 = _utf8(errors="replace")
        self._kind: BlockKind | None = None
        """Of the open block."""
        self._logprobs: list[TokenLogprob] = []
        self.stopped: str | None = None
        """The stop string that ended the answer, if one did. `feed` then returns nothing more."""
        self.reasoning_tokens = 0
        """Tokens that were thought, so far."""
        self._held_tokens = 0
        """At the beginning of an open thought: they may yet be a call instead."""

    @property
    def is_thinking(self) -> bool:
        """In an open thought, be it that the prompt has opened it."""
        return self._parser.is_thinking

    @property
    def thinking_tokens(self) -> int:
        """As `reasoning_tokens`, with those that are held because they may yet be a call."""
        return self.reasoning_tokens + self._held_tokens

    @property
    def ended(self) -> FinishReason | None:
        """Why nothing more is wanted, if so: a stop string, or the one call there may be."""
        if self.stopped is not None:
            return "stop_sequence"
        return "tool_calls" if self._one_call and self._parser.calls else None

    @property
    def calls(self) -> int:
        """Whole calls so far."""
        return self._parser.calls

    def knows(self, control: str) -> bool:
        """Whether a control token means something in this model's format."""
        return control in self._parser.controls

    def feed(self, piece: bytes, logprob: TokenLogprob | None, control: str = "") -> list[Event]:
        """Take the next token: its bytes or, of a control token, its name. Often there is no event."""
        if self.ended is not None:
            return []
        was_open = self._parser.is_thinking
        was_thinking = self._kind == "reasoning"
        if self._kind in ("reasoning", "tool"):
            self._logprobs.clear()
        if logprob is not None:
            self._logprobs.append(logprob)
        if control:
            events = self._shown(self._parser.feed(self._utf8.decode(b"", True)))
            self._utf8.reset()
            events += self._shown(self._parser.feed(control, is_control=True))
        else:
            text = self._utf8.decode(piece)
            events = self._shown(self._parser.feed(text)) if text else []
        # A thought's end is known when something follows it: the token that follows is none of it.
        begins_other = any(isinstance(event, BlockOpened) and event.kind != "reasoning" for event in events)
        self.reasoning_tokens += self._kind == "reasoning" or (was_thinking and not begins_other)
        if self._kind is not None:
            self.reasoning_tokens += self._held_tokens if self._kind == "reasoning" else 0
            self._held_tokens = 0
        elif was_open and self._parser.is_thinking and not was_thinking:
            self._held_tokens += 1
        return events

    def finish(self, reason: FinishReason) -> list[Event]:
        """Decide what was held, and close the blocks. To be called once, after the last token.

        `stopped` and `calls` are final only now.
        """
        if self.stopped is not None:
            return []
        events = self._shown(self._parser.feed(self._utf8.decode(b"", True)))
        return events + self._shown(self._parser.finish("length" if reason == "length" else "stop"))

    def _shown(self, parsed: list[BlockOpened | BlockDelta | BlockClosed]) -> list[Event]:
        events: list[Event] = []
        for event in parsed:
            if self.stopped is not None:
                break
            match event:
                case BlockOpened(kind=kind):
                    self._kind = kind
                    events.append(event)
                case BlockDelta() if self._kind == "text":
                    self._tell(event, self._stops.feed(event.text), events)
                case BlockDelta():
                    self._logprobs.clear()
                    events.append(event)
                case BlockClosed():
                    if self._kind == "text":
                        self._tell(BlockDelta(event.index, ""), self._stops.finish(), events)
                        self._stops = self._stop_finder()
                    self._kind = None
                    events.append(event)
        return events

    def _stop_finder(self) -> StopFinder:
        return StopFinder(self._stop, shows_found=self._includes_stop)

    def _tell(self, delta: BlockDelta, text: str, events: list[Event]) -> None:
        """Text of a text block that is no part of a stop string; the block ends where one is complete."""
        if text:
            events.append(BlockDelta(delta.index, text, tuple(self._logprobs)))
            self._logprobs.clear()
        if self._stops.found is not None:
            self.stopped, self._kind = self._stops.found, None
            events.append(BlockClosed(delta.index))
