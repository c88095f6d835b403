"""An answer that broke off, gone on with at another replica: what was said is the beginning of a message.

Only a text can be gone on with, and only where nothing else of the request looks at it from its beginning.
So a conversation, or a prompt that is a text, with one choice, without tools, without a form that the answer
must have and without log probabilities; and only as long as nothing but text was heard: what a template makes
of a thought that is half open, or of one before a text, is not known here. Nor behind what may begin a
stop string, since nobody would find its end. Pure.

Templates strip the message that is continued, and tokens mostly have their blanks in front. So the blanks at
its end are left to the model to say again, and what it says of them is not told twice.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from corral.decoding.stops import StopFinder
from corral.engine.upstream.ask import continues
from corral.engine.upstream.fleet import Wanted
from corral.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Continued,
    Event,
    Finished,
    Prefill,
    Sampled,
    Started,
    Usage,
)
from corral.request import GenerationRequest, Message

TEXT: Final = "text"


class Heard:
    """What a client has of an answer so far, as it comes; its text only if that is kept."""

    def __init__(self, *, keeps_text: bool) -> None:
        self._keeps_text = keeps_text
        self.tokens = 0
        self.prompt_tokens = 0
        self.knows_prompt = False
        """The upstream has said how long the prompt is; else it is a guess."""
        self.cached_tokens = 0
        self._pieces: list[str] = []
        self._blocks = 0
        self._is_text_open = False

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self._pieces)

    @property
    def is_text(self) -> bool:
        """Nothing but one text, which has not ended."""
        return self._is_text_open and self._blocks == 1 and bool(self.text.strip())

    def feed(self, events: Iterable[Event], *, knows_prompt: bool = True) -> None:
        """What its client was told, and whether the prompt's length is known by now."""
        self.knows_prompt = knows_prompt
        for event in events:
            match event:
                case BlockDelta() if self._keeps_text:
                    self._pieces.append(event.text)
                case Sampled():
                    self.tokens += event.tokens
                case BlockOpened():
                    self._blocks += 1
                    self._is_text_open = event.kind == TEXT
                case BlockClosed():
                    self._is_text_open = False
                case Started():
                    self.prompt_tokens = event.prompt_tokens
                    self.cached_tokens = event.cached_tokens
                case _:
                    pass


@dataclass(frozen=True, slots=True)
class Rest:
    """What is asked of another replica: the `request` with all that was `heard`; how much may follow."""

    request: GenerationRequest
    max_tokens: int
    heard: Heard

    def wanted(self, whole: Wanted) -> Wanted:
        """What routing knows of it, by what it knew of the whole."""
        return replace(
            whole,
            prompt_tokens=whole.prompt_tokens + self.heard.tokens,
            prompt_bytes=whole.prompt_bytes + len(self.heard.text.encode("utf-8", "replace")),
            output_tokens=max(1, whole.output_tokens - self.heard.tokens),
        )


def rest_of(request: GenerationRequest, max_tokens: int, heard: Heard) -> Rest | None:
    """How to go on with it; None where it cannot be gone on with, or nothing may follow."""
    left_tokens = max_tokens - heard.tokens
    if left_tokens < 1 or not heard.is_text or not _is_plain(request):
        return None
    text = heard.text.rstrip()
    if _is_in_a_stop(text, request.stop):
        return None
    sampling = request.sampling
    asked = replace(
        request,
        max_tokens=None if request.max_tokens is None else left_tokens,
        sampling=replace(sampling, min_tokens=max(0, sampling.min_tokens - heard.tokens)),
    )
    if request.prompt is not None:
        asked = replace(asked, prompt=replace(request.prompt, text=request.prompt.text + text))
    elif continues(request):
        *before, last = request.messages
        asked = replace(asked, messages=(*before, replace(last, content=last.content + text)))
    else:
        asked = replace(asked, messages=(*request.messages, Message("assistant", text)))
    return Rest(asked, left_tokens, heard)


def _is_plain(request: GenerationRequest) -> bool:
    prompt = request.prompt
    return not (
        request.n > 1
        or request.tools
        or request.grammar is not None
        or request.top_logprobs is not None
        or (prompt is not None and (prompt.tokens is not None or prompt.suffix is not None))
    )


def _is_in_a_stop(text: str, stops: tuple[str, ...]) -> bool:
    """Whether it ends in a stop string, or with the beginning of one."""
    finder = StopFinder(stops)
    finder.feed(text)
    return finder.found is not None or bool(finder.finish())


class NotContinued(Exception):
    """It began something else instead of going on."""


class Joint:
    """Makes the events of the rest those of the whole: nothing begins twice, and nothing is said twice."""

    def __init__(self, heard: Heard, replica: str) -> None:
        self._heard = heard
        self._replica = replica
        self._is_closed = False
        text = heard.text
        self._blanks = text[len(text.rstrip()) :]
        """That were told, and that the model may say again."""

    def joined(self, events: Iterable[Event]) -> list[Event]:
        """What is told of these. Raises NotContinued for a thought, or a call."""
        told: list[Event] = []
        for event in events:
            match event:
                case Prefill():
                    pass
                case Started():
                    told.append(Continued(self._replica))
                case BlockOpened():
                    if event.kind != TEXT:
                        raise NotContinued
                case BlockDelta():
                    if text := self._unsaid(event.text):
                        told.append(BlockDelta(0, text))
                case BlockClosed():
                    self._is_closed = True
                    told.append(BlockClosed(0))
                case Finished():
                    if not self._is_closed:  # nothing more was said
                        told.append(BlockClosed(0))
                    told.append(replace(event, usage=self._usage(event.usage)))
                case _:
                    told.append(event)
        return told

    def _unsaid(self, text: str) -> str:
        while self._blanks and text and text[0] == self._blanks[0]:
            self._blanks, text = self._blanks[1:], text[1:]
        if text:
            self._blanks = ""
        return text

    def _usage(self, rest: Usage) -> Usage:
        """Of the prompt as the client gave it, and of all that was said."""
        heard = self._heard
        prompt_tokens = heard.prompt_tokens
        if not heard.knows_prompt and rest.prompt_tokens > heard.tokens:
            prompt_tokens = rest.prompt_tokens - heard.tokens
        return Usage(
            prompt_tokens,
            min(heard.cached_tokens, prompt_tokens),
            heard.tokens + rest.completion_tokens,
            rest.reasoning_tokens,
        )
