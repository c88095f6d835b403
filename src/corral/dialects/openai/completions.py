"""OpenAI's Completions, of before there were conversations: `POST /v1/completions`.

What is taken from a request is in `completion_request`. Each prompt is a request of its own to the engine,
and choices are counted over all of them, prompt by prompt. Decisions where OpenAI's reference leaves room:

- The first chunks go out on acceptance, one per choice: its text is what is echoed, or nothing.
- A keepalive is a chunk with no text.
- `text_offset` counts characters of the choice's text.
- A token that is not whole characters is `bytes:` and its bytes in hexadecimal, as OpenAI wrote them.
- Of `best_of` answers those come that were likeliest per token, the likeliest first.
- `stop_reason`, failures, `usage`, `return_progress`: as in Chat Completions.

Sources: https://platform.openai.com/docs/api-reference/completions/object.
"""

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from corral import __version__
from corral.dialects import Head, Headers
from corral.dialects.openai.completion_request import (
    choices_of,
    generation_requests,
    is_only_scored,
    read_completion,
    wants_usage,
)
from corral.dialects.openai.errors import OpenAIErrors, error_frame
from corral.dialects.progress import (
    LoadingProgress,
    PromptProgress,
    QueueProgress,
    prompt_progress,
    queue_progress,
)
from corral.dialects.wire import frame
from corral.events import (
    BlockDelta,
    Completion,
    Event,
    Finished,
    Loading,
    Prefill,
    Queued,
    Started,
    TokenLogprob,
    Usage,
)
from corral.request import GenerationRequest

MIN_LOGPROB: Final = -9999.0
"""What OpenAI's reference says for a token that cannot be: JSON has no minus infinity."""


# The wire. Field order is the order on it. None of these can be part of a reference cycle, hence gc=False.


class _Logprobs(msgspec.Struct, gc=False):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class _Choice(msgspec.Struct, gc=False):
    index: int
    text: str
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | UnsetType | None = UNSET


class _CachedTokens(msgspec.Struct, gc=False):
    cached_tokens: int


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _CachedTokens


class _TextCompletion(msgspec.Struct, gc=False, tag_field="object", tag="text_completion"):
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: Sequence[_Choice]
    usage: _Usage | UnsetType | None
    queue_progress: QueueProgress | UnsetType = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET
    loading_progress: LoadingProgress | UnsetType = UNSET


class _Offsets:
    """Where the tokens of one choice begin in its text."""

    __slots__ = ("_characters", "_decoder")

    def __init__(self, characters: int = 0) -> None:
        """So many `characters` of the text come before them."""
        self._characters = characters
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def logprobs(self, tokens: Iterable[TokenLogprob], prompt: Sequence[TokenLogprob] = ()) -> _Logprobs:
        """Those of the tokens that follow; first of a `prompt`, of whose first token nothing can be said."""
        told = _Logprobs([], [], [], [])
        for token in prompt:
            self._tell(token, told)
        if prompt:
            told.token_logprobs[0] = told.top_logprobs[0] = None
        for token in tokens:
            self._tell(token, told)
        return told

    def _tell(self, token: TokenLogprob, told: _Logprobs) -> None:
        told.tokens.append(_text(token))
        told.token_logprobs.append(max(MIN_LOGPROB, token.logprob))
        told.top_logprobs.append({_text(top): max(MIN_LOGPROB, top.logprob) for top in token.top})
        told.text_offset.append(self._characters)
        self._characters += len(self._decoder.decode(token.raw))


class CompletionStream:
    """Encodes one streamed answer; a `StreamEncoder`."""

    def __init__(self, head: Head, call: "CompletionCall", echoed: Sequence[str]) -> None:
        self._head = head
        self._call = call
        self._echoed = echoed
        # What is echoed with its log probabilities can only be told when these are known.
        self._echoes_at_once = not call.requests[0].scores_prompt
        self._choices = call.n * len(call.requests)
        self._no_usage: UnsetType | None = None if call.wants_usage else UNSET
        self._finished: dict[int, Usage] = {}
        self._offsets = [_Offsets() for _ in range(self._choices)]

    def start(self) -> bytes:
        echoed = self._echoed if self._echoes_at_once else [""] * len(self._echoed)
        return b"".join(
            [self._chunk(_Choice(choice, echoed[choice // self._call.n])) for choice in range(self._choices)]
        )

    def encode(self, choice: int, event: Event) -> bytes:
        """A Failed shows nothing here: `fail` ends the stream of all choices."""
        match event:
            case Started() if event.prompt_logprobs:
                echo = self._echoed[choice // self._call.n]
                return self._chunk(
                    _Choice(choice, echo, self._offsets[choice].logprobs((), event.prompt_logprobs))
                )
            case BlockDelta() if self._call.is_only_scored:
                return b""
            case BlockDelta():
                logprobs = self._offsets[choice].logprobs(event.logprobs) if event.logprobs else None
                return self._chunk(_Choice(choice, event.text, logprobs))
            case Finished():
                self._finished[choice] = event.usage
                return self._chunk(_Choice(choice, "", None, *self._call.end(event)))
            case Queued() if self._call.wants_progress and choice % self._call.n == 0:
                return self._chunk(_Choice(choice, ""), queue_progress=queue_progress(event))
            case Loading(model) if self._call.wants_progress and choice % self._call.n == 0:
                return self._chunk(_Choice(choice, ""), loading_progress=LoadingProgress(model))
            case Prefill() | Started() if self._call.wants_progress:
                return self._chunk(_Choice(choice, ""), prompt_progress=prompt_progress(event))
            case _:
                return b""

    def keepalive(self) -> bytes:
        choice = next((choice for choice in range(self._choices) if choice not in self._finished), None)
        return self._chunk() if choice is None else self._chunk(_Choice(choice, ""))

    def end(self) -> bytes:
        done = b"data: [DONE]\n\n"
        if not self._call.wants_usage:
            return done
        usages = [self._finished[choice] for choice in range(self._choices)]
        return self._chunk(usage=self._call.usage(usages, self._call.n)) + done

    def fail(self, error: Exception) -> bytes:
        return error_frame(error)

    def _chunk(
        self,
        *choices: _Choice,
        usage: _Usage | None = None,
        queue_progress: QueueProgress | UnsetType = UNSET,
        prompt_progress: PromptProgress | UnsetType = UNSET,
        loading_progress: LoadingProgress | UnsetType = UNSET,
    ) -> bytes:
        head = self._head
        return frame(
            _TextCompletion(
                head.id,
                head.created_s,
                head.model,
                self._call.fingerprint,
                choices,
                usage or self._no_usage,
                queue_progress,
                prompt_progress,
                loading_progress,
            )
        )


@dataclass(frozen=True, slots=True)
class CompletionCall:
    """A parsed request and how to answer it: `n` choices of each of the `requests`, one per prompt."""

    requests: tuple[GenerationRequest, ...]
    model: str | None
    n: int
    echoes: bool
    shows_logprobs: bool
    is_only_scored: bool
    wants_stream: bool
    wants_usage: bool
    wants_progress: bool
    fingerprint: str = field(compare=False)

    def stream(self, head: Head, echoed: Sequence[str]) -> CompletionStream:
        """`echoed` is what each prompt's texts begin with."""
        return CompletionStream(head, self, echoed)

    def complete(self, head: Head, echoed: Sequence[str], completions: Sequence[Completion]) -> bytes:
        """`completions` are those of the first prompt, then those of the second, and so on."""
        candidates = self.requests[0].n
        choices = [
            self._choice(number * self.n + rank, echo, completion)
            for number, echo in enumerate(echoed)
            for rank, completion in enumerate(
                _best(completions[number * candidates : (number + 1) * candidates], self.n)
            )
        ]
        usage = self.usage([completion.finished.usage for completion in completions], candidates)
        return msgspec.json.encode(
            _TextCompletion(head.id, head.created_s, head.model, self.fingerprint, choices, usage)
        )

    def end(self, finished: Finished) -> tuple[str, str | int | None]:
        """Why a choice ended, in two ways; where no token was wanted, that is the limit."""
        if self.is_only_scored:
            return "length", None
        stopped_by = finished.stop_token if finished.stop_sequence is None else finished.stop_sequence
        return "length" if finished.reason == "length" else "stop", stopped_by

    def usage(self, usages: Sequence[Usage], choices: int) -> _Usage:
        """Of all prompts together; each has so many `choices`, which begin with it."""
        each = [Usage.of_choices(usages[at : at + choices]) for at in range(0, len(usages), choices)]
        prompt_tokens = sum(usage.prompt_tokens for usage in each)
        said_tokens = 0 if self.is_only_scored else sum(usage.completion_tokens for usage in each)
        cached = _CachedTokens(sum(usage.cached_tokens for usage in each))
        return _Usage(prompt_tokens, said_tokens, prompt_tokens + said_tokens, cached)

    def _choice(self, index: int, echo: str, completion: Completion) -> _Choice:
        tokens, text = _tokens(completion), completion.text
        if self.is_only_scored:
            tokens, text = [], ""
        logprobs = _Offsets().logprobs(tokens, completion.prompt_logprobs) if self.shows_logprobs else None
        return _Choice(index, echo + text, logprobs, *self.end(completion.finished))


class CompletionsDialect(OpenAIErrors):
    """The Completions API. No `Dialect`: its calls may hold several requests."""

    id_prefix = "cmpl-"

    def __init__(self, fingerprint: str = f"corral-{__version__}") -> None:
        """`fingerprint` is told as `system_fingerprint`: where it differs, so may answers to one seed."""
        self._fingerprint = fingerprint

    def parse(self, body: bytes, headers: Headers, client: str) -> CompletionCall:
        """Parse a request body; raises InvalidRequest. Nothing here depends on the headers or the client."""
        wire = read_completion(body)
        return CompletionCall(
            requests=generation_requests(wire),
            model=wire.model,
            n=choices_of(wire),
            echoes=bool(wire.echo),
            shows_logprobs=wire.logprobs is not None,
            is_only_scored=is_only_scored(wire),
            wants_stream=bool(wire.stream),
            wants_usage=wants_usage(wire),
            wants_progress=bool(wire.return_progress),
            fingerprint=self._fingerprint,
        )


def _best(completions: Sequence[Completion], n: int) -> Sequence[Completion]:
    """The `n` likeliest per token, the likeliest first; all in their order where there are no more."""
    if len(completions) == n:
        return completions
    return sorted(completions, key=_likelihood, reverse=True)[:n]


def _likelihood(completion: Completion) -> float:
    logprobs = [token.logprob for token in _tokens(completion)]
    return sum(logprobs) / max(1, len(logprobs))


def _tokens(completion: Completion) -> list[TokenLogprob]:
    return [token for block in completion.blocks for token in block.logprobs]


def _text(token: TokenLogprob) -> str:
    try:
        return token.raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.raw)
