"""OpenAI's Chat Completions: `POST /v1/chat/completions`.

What is taken from a request is in `chat_request`. An answer follows OpenAI's reference, with these decisions
where that leaves room or real clients need more:

- The first chunk of every choice carries the role and goes out on acceptance; all chunks have the same id.
- A keepalive is a chunk with an empty delta: clients restart their idle timers on parsed chunks only.
- `finish_reason` knows one `stop` for three endings. `stop_reason`, a field of vLLM's, tells them apart:
  the stop string, the id of a stop token, or null where the model ended by itself.
- A failed stream ends with an error frame and without `[DONE]`.
- `usage` counts the prompt once and the completion tokens of all choices.
- A client that asks with `return_progress`, a field of llama-server's, is told where its request is: while it
  waits, in chunks with a `queue_progress`, which is our own, and while its prompt is read in llama-server's
  `prompt_progress`.

Sources: https://platform.openai.com/docs/api-reference/chat/object and /chat/streaming.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from corral import __version__
from corral.dialects import Head, Headers
from corral.dialects.openai.chat_request import generation_request, read_chat, wants_usage
from corral.dialects.openai.errors import OpenAIErrors, error_frame
from corral.dialects.openai.progress import PromptProgress, QueueProgress, prompt_progress, queue_progress
from corral.dialects.wire import frame
from corral.events import (
    BlockDelta,
    Completion,
    Event,
    Finished,
    FinishReason,
    Prefill,
    Queued,
    Started,
    TokenLogprob,
    Usage,
)
from corral.request import GenerationRequest

FINISH_REASONS: Final[dict[FinishReason, Literal["stop", "length"]]] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
}
MIN_LOGPROB: Final = -9999.0
"""What OpenAI's reference says for a token that cannot be: JSON has no minus infinity."""


# The wire. Field order is the order on it. None of these can be part of a reference cycle, hence gc=False.


class _TopLogprob(msgspec.Struct, gc=False):
    token: str
    logprob: float
    bytes: list[int]


class _TokenLogprob(msgspec.Struct, gc=False):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[_TopLogprob]


class _Logprobs(msgspec.Struct, gc=False):
    content: list[_TokenLogprob]
    refusal: None = None


class _CachedTokens(msgspec.Struct, gc=False):
    cached_tokens: int


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _CachedTokens


class _Delta(msgspec.Struct, gc=False, omit_defaults=True):
    role: str | None = None
    content: str | None = None


class _ChunkChoice(msgspec.Struct, gc=False):
    index: int
    delta: _Delta
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | UnsetType | None = UNSET


class _Chunk(msgspec.Struct, gc=False, tag_field="object", tag="chat.completion.chunk"):
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[_ChunkChoice, ...]
    usage: _Usage | UnsetType | None
    queue_progress: QueueProgress | UnsetType = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET


class _Message(msgspec.Struct, gc=False):
    role: str
    content: str
    refusal: None = None


class _Choice(msgspec.Struct, gc=False):
    index: int
    message: _Message
    logprobs: _Logprobs | None
    finish_reason: str
    stop_reason: str | int | None


class _Completion(msgspec.Struct, gc=False, tag_field="object", tag="chat.completion"):
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[_Choice]
    usage: _Usage


class ChatStream:
    """Encodes one streamed answer; a `StreamEncoder`."""

    def __init__(
        self, head: Head, fingerprint: str, *, n: int, wants_usage: bool, wants_progress: bool = False
    ) -> None:
        self._head = head
        self._fingerprint = fingerprint
        self._n = n
        self._wants_usage = wants_usage
        self._wants_progress = wants_progress
        # With include_usage every chunk has the field, null in all but the last.
        self._no_usage: UnsetType | None = None if wants_usage else UNSET
        self._finished: dict[int, Usage] = {}

    def start(self) -> bytes:
        role = _Delta(role="assistant", content="")
        return b"".join([self._chunk(_ChunkChoice(choice, role)) for choice in range(self._n)])

    def encode(self, choice: int, event: Event) -> bytes:
        """A Failed shows nothing here: `fail` ends the stream of all choices."""
        match event:
            case BlockDelta():
                logprobs = _logprobs(event.logprobs) if event.logprobs else None
                return self._chunk(_ChunkChoice(choice, _Delta(content=event.text), logprobs))
            case Finished():
                self._finished[choice] = event.usage
                reason = FINISH_REASONS[event.reason]
                return self._chunk(_ChunkChoice(choice, _Delta(), None, reason, _stop_reason(event)))
            case Queued() | Prefill() | Started() if self._wants_progress:
                return self._progress(choice, event)
            case _:
                return b""

    def keepalive(self) -> bytes:
        # Not for a choice that is finished: clients may take a finish_reason for the last of a choice.
        choice = next((choice for choice in range(self._n) if choice not in self._finished), None)
        return self._chunk() if choice is None else self._chunk(_ChunkChoice(choice, _Delta()))

    def end(self) -> bytes:
        done = b"data: [DONE]\n\n"
        if not self._wants_usage:
            return done
        return self._chunk(usage=_usage(self._finished.values())) + done

    def fail(self, error: Exception) -> bytes:
        return error_frame(error)

    def _progress(self, choice: int, event: Queued | Prefill | Started) -> bytes:
        """Where the request is. It waits as a whole, so its first choice tells of that for all."""
        if not isinstance(event, Queued):
            return self._chunk(_ChunkChoice(choice, _Delta()), prompt_progress=prompt_progress(event))
        if choice:
            return b""
        return self._chunk(_ChunkChoice(choice, _Delta()), queue_progress=queue_progress(event))

    def _chunk(
        self,
        *choices: _ChunkChoice,
        usage: _Usage | None = None,
        queue_progress: QueueProgress | UnsetType = UNSET,
        prompt_progress: PromptProgress | UnsetType = UNSET,
    ) -> bytes:
        head = self._head
        return frame(
            _Chunk(
                head.id,
                head.created_s,
                head.model,
                self._fingerprint,
                choices,
                usage or self._no_usage,
                queue_progress,
                prompt_progress,
            )
        )


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A parsed request and how to answer it; a `Call`."""

    request: GenerationRequest
    model: str | None
    wants_stream: bool
    wants_usage: bool
    wants_progress: bool
    fingerprint: str

    def stream(self, head: Head) -> ChatStream:
        return ChatStream(
            head,
            self.fingerprint,
            n=self.request.n,
            wants_usage=self.wants_usage,
            wants_progress=self.wants_progress,
        )

    def complete(self, head: Head, completions: Sequence[Completion]) -> bytes:
        choices = [self._choice(index, completion) for index, completion in enumerate(completions)]
        usage = _usage(completion.finished.usage for completion in completions)
        return msgspec.json.encode(
            _Completion(head.id, head.created_s, head.model, self.fingerprint, choices, usage)
        )

    def _choice(self, index: int, completion: Completion) -> _Choice:
        finished = completion.finished
        logprobs = None
        if self.request.top_logprobs is not None:
            logprobs = _logprobs(token for block in completion.blocks for token in block.logprobs)
        return _Choice(
            index,
            _Message("assistant", completion.text),
            logprobs,
            FINISH_REASONS[finished.reason],
            _stop_reason(finished),
        )


class ChatDialect(OpenAIErrors):
    """The Chat Completions API; a `Dialect`."""

    id_prefix = "chatcmpl-"

    def __init__(self, fingerprint: str = f"corral-{__version__}") -> None:
        """`fingerprint` is told as `system_fingerprint`: where it differs, so may answers to one seed."""
        self._fingerprint = fingerprint

    def parse(self, body: bytes, headers: Headers, client: str = "") -> ChatCall:
        """Parse a request body; raises InvalidRequest. Nothing here depends on who sends it."""
        chat = read_chat(body)
        return ChatCall(
            request=generation_request(chat),
            model=chat.model,
            wants_stream=bool(chat.stream),
            wants_usage=wants_usage(chat),
            wants_progress=bool(chat.return_progress),
            fingerprint=self._fingerprint,
        )


def _stop_reason(finished: Finished) -> str | int | None:
    """The request's own stop string or token that ended it, if one did."""
    return finished.stop_token if finished.stop_sequence is None else finished.stop_sequence


def _logprobs(tokens: Iterable[TokenLogprob]) -> _Logprobs:
    return _Logprobs(
        [
            _TokenLogprob(
                _text(token),
                max(MIN_LOGPROB, token.logprob),
                list(token.raw),
                [_TopLogprob(_text(top), max(MIN_LOGPROB, top.logprob), list(top.raw)) for top in token.top],
            )
            for token in tokens
        ]
    )


def _text(token: TokenLogprob) -> str:
    """A token that is not whole characters has replacement characters here; its `bytes` are exact."""
    return token.raw.decode("utf-8", "replace")


def _usage(choices: Iterable[Usage]) -> _Usage:
    usage = Usage.of_choices(choices)
    total_tokens = usage.prompt_tokens + usage.completion_tokens
    return _Usage(
        usage.prompt_tokens, usage.completion_tokens, total_tokens, _CachedTokens(usage.cached_tokens)
    )
