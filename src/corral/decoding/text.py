"""From token bytes to text events."""

import codecs
from collections import deque

from corral.decoding.stops import StopFinder
from corral.events import BlockClosed, BlockDelta, BlockOpened, Event, FinishReason, TokenLogprob

_utf8 = codecs.getincrementaldecoder("utf-8")


class TextDecoder:
    """Turns one sequence's token bytes into the events of one text block. Not thread-safe, never blocks.

    A character split between tokens is held until it is whole; bytes that are no UTF-8 become U+FFFD. Text
    that may turn out to be part of a stop string is held too (see `stops`). An answer without text has no
    block at all.

    A token's logprob travels with the character at which its bytes begin or, for a token that only goes on
    with a character, with that character. So every token is shown with text or, where a stop string swallows
    that character, not at all.
    """

    calls = 0
    """There are none in a text, nor thoughts."""
    reasoning_tokens = 0
    thinking_tokens = 0
    is_thinking = False

    __slots__ = ("_decoded_chars", "_is_open", "_logprobs", "_shown_chars", "_stops", "_utf8")

    def __init__(self, stop: tuple[str, ...], *, includes_stop: bool = False) -> None:
        """Raises ValueError for an empty stop string."""
        self._utf8 = _utf8(errors="replace")
        self._stops = StopFinder(stop, shows_found=includes_stop)
        self._is_open = False
        self._decoded_chars = 0
        self._shown_chars = 0
        # (characters decoded before the token, its logprob), in the order of generation
        self._logprobs: deque[tuple[int, TokenLogprob]] = deque()

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the text, if one did. `feed` then returns nothing more."""
        return self._stops.found

    @property
    def ended(self) -> FinishReason | None:
        """Why nothing more is wanted, if so."""
        return None if self.stopped is None else "stop_sequence"

    def knows(self, control: str) -> bool:
        """Whether a control token means something here."""
        return False

    def feed(self, piece: bytes, logprob: TokenLogprob | None, control: str = "") -> list[Event]:
        """Take the bytes of the next token and return the events it causes, often none.

        A control token, which has no bytes, has no text either.
        """
        if logprob is not None:
            self._logprobs.append((self._decoded_chars, logprob))
        return self._show(self._stops.feed(self._decode(piece)))

    def finish(self, reason: FinishReason = "stop") -> list[Event]:
        """Return what was held, and close the block. To be called once, after the last token.

        An incomplete character becomes U+FFFD, which may even complete a stop string that holds one:
        `stopped` is final only now.
        """
        text = self._stops.feed(self._decode(b"", final=True)) + self._stops.finish()
        events = self._show(text)
        if not self._is_open:
            return events
        # Tokens without bytes at the very end have no character to travel with.
        if self._logprobs and self.stopped is None:
            events.append(BlockDelta(0, "", tuple(logprob for _, logprob in self._logprobs)))
        events.append(BlockClosed(0))
        return events

    def _decode(self, piece: bytes, final: bool = False) -> str:
        text = self._utf8.decode(piece, final)
        self._decoded_chars += len(text)
        return text

    def _show(self, text: str) -> list[Event]:
        if not text:
            return []
        delta = BlockDelta(0, text, self._logprobs_of_next(len(text)))
        if self._is_open:
            return [delta]
        self._is_open = True
        return [BlockOpened(0, "text"), delta]

    def _logprobs_of_next(self, chars: int) -> tuple[TokenLogprob, ...]:
        self._shown_chars += chars
        shown = []
        while self._logprobs and self._logprobs[0][0] < self._shown_chars:
            shown.append(self._logprobs.popleft()[1])
        return tuple(shown)
