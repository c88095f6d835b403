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
from corral.decoding.string_field import StringField
from corral.dialects import Head, Headers
from corral.dialects.openai.chat_request import generation_request, read_chat, wants_usage
from corral.dialects.openai.chat_tools import custom_tools
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
    Block,
    BlockClosed,
    BlockDelta,
    BlockKind,
    BlockOpened,
    Completion,
    Event,
    Finished,
    FinishReason,
    Loading,
    Prefill,
    Queued,
    Started,
    TokenLogprob,
    Usage,
)
from corral.request import GenerationRequest

FINISH_REASONS: Final[dict[FinishReason, Literal["stop", "length", "tool_calls"]]] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
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


class _ReasoningTokens(msgspec.Struct, gc=False):
    reasoning_tokens: int


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _CachedTokens
    completion_tokens_details: _ReasoningTokens


class _Function(msgspec.Struct, gc=False, omit_defaults=True):
    """Of a custom tool `input` takes the place of the arguments."""

    name: str | None = None
    arguments: str | None = None
    input: str | None = None


class _ToolCall(msgspec.Struct, gc=False, omit_defaults=True):
    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: _Function | None = None
    custom: _Function | None = None


class _Delta(msgspec.Struct, gc=False, omit_defaults=True):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[_ToolCall, ...] | None = None


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
    loading_progress: LoadingProgress | UnsetType = UNSET


class _Message(msgspec.Struct, gc=False):
    role: str
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[_ToolCall] | UnsetType = UNSET


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
        self,
        head: Head,
        fingerprint: str,
        *,
        n: int,
        wants_usage: bool,
        wants_progress: bool = False,
        custom: frozenset[str] = frozenset(),
    ) -> None:
        """`custom` are the tools whose input is free text."""
        self._head = head
        self._fingerprint = fingerprint
        self._n = n
        self._wants_usage = wants_usage
        self._wants_progress = wants_progress
        # With include_usage every chunk has the field, null in all but the last.
        self._no_usage: UnsetType | None = None if wants_usage else UNSET
        self._finished: dict[int, Usage] = {}
        self._blocks = [Blocks(custom) for _ in range(n)]

    def start(self) -> bytes:
        role = _Delta(role="assistant", content="")
        return b"".join([self._chunk(_ChunkChoice(choice, role)) for choice in range(self._n)])

    def encode(self, choice: int, event: Event) -> bytes:
        """A Failed shows nothing here: `fail` ends the stream of all choices."""
        match event:
            case BlockDelta() | BlockOpened() | BlockClosed():
                delta = self._blocks[choice].delta(event)
                if delta is None:
                    return b""
                logprobs = None
                if isinstance(event, BlockDelta) and event.logprobs:
                    logprobs = _logprobs(event.logprobs)
                return self._chunk(_ChunkChoice(choice, delta, logprobs))
            case Finished():
                self._finished[choice] = event.usage
                reason = FINISH_REASONS[event.reason]
                return self._chunk(_ChunkChoice(choice, _Delta(), None, reason, _stop_reason(event)))
            case Loading() | Queued() | Prefill() | Started() if self._wants_progress:
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

    def _progress(self, choice: int, event: Loading | Queued | Prefill | Started) -> bytes:
        """Where the request is. It waits as a whole, so its first choice tells of that for all."""
        where = _ChunkChoice(choice, _Delta())
        match event:
            case Prefill() | Started():
                return self._chunk(where, prompt_progress=prompt_progress(event))
            case Queued() if not choice:
                return self._chunk(where, queue_progress=queue_progress(event))
            case Loading(model) if not choice:
                return self._chunk(where, loading_progress=LoadingProgress(model))
            case _:
                return b""

    def _chunk(
        self,
        *choices: _ChunkChoice,
        usage: _Usage | None = None,
        queue_progress: QueueProgress | UnsetType = UNSET,
        prompt_progress: PromptProgress | UnsetType = UNSET,
        loading_progress: LoadingProgress | UnsetType = UNSET,
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
                loading_progress,
            )
        )


class Blocks:
    """The blocks of one choice as deltas: thoughts beside the text, calls by their number."""

    __slots__ = ("_calls", "_custom", "_inputs", "_kinds")

    def __init__(self, custom: frozenset[str]) -> None:
        self._custom = custom
        self._kinds: dict[int, BlockKind] = {}
        self._calls: dict[int, int] = {}
        self._inputs: dict[int, StringField] = {}

    def delta(self, event: BlockOpened | BlockDelta | BlockClosed) -> _Delta | None:
        """What a client is told of it; None: nothing."""
        match event:
            case BlockOpened():
                return self._opened(event)
            case BlockDelta() if self._kinds[event.index] == "reasoning":
                return _Delta(reasoning_content=event.text)
            case BlockDelta() if self._kinds[event.index] == "tool":
                return self._argument(event)
            case BlockDelta():
                return _Delta(content=event.text)
            case BlockClosed():
                return None

    def _opened(self, event: BlockOpened) -> _Delta | None:
        self._kinds[event.index] = event.kind
        if event.kind != "tool":
            return None
        number = self._calls[event.index] = len(self._calls)
        if event.name in self._custom:
            self._inputs[event.index] = StringField("input")
            call = _ToolCall(number, event.call_id, "custom", custom=_Function(event.name, input=""))
        else:
            call = _ToolCall(number, event.call_id, "function", _Function(event.name, ""))
        return _Delta(tool_calls=(call,))

    def _argument(self, event: BlockDelta) -> _Delta | None:
        number, text = self._calls[event.index], event.text
        if (reader := self._inputs.get(event.index)) is None:
            return _Delta(tool_calls=(_ToolCall(number, function=_Function(arguments=text)),))
        text = reader.feed(text)
        return _Delta(tool_calls=(_ToolCall(number, custom=_Function(input=text)),)) if text else None


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A parsed request and how to answer it; a `Call`."""

    request: GenerationRequest
    model: str | None
    wants_stream: bool
    wants_usage: bool
    wants_progress: bool
    fingerprint: str
    custom: frozenset[str] = frozenset()

    def stream(self, head: Head) -> ChatStream:
        return ChatStream(
            head,
            self.fingerprint,
            n=self.request.n,
            wants_usage=self.wants_usage,
            wants_progress=self.wants_progress,
            custom=self.custom,
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
            self._message(completion),
            logprobs,
            FINISH_REASONS[finished.reason],
            _stop_reason(finished),
        )

    def _message(self, completion: Completion) -> _Message:
        calls = [_whole(block, self.custom) for block in completion.calls]
        return _Message(
            "assistant",
            completion.text if completion.text or not calls else None,
            reasoning_content=completion.reasoning or UNSET,
            tool_calls=calls or UNSET,
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
            custom=custom_tools(chat),
        )


def _stop_reason(finished: Finished) -> str | int | None:
    """The request's own stop string or token that ended it, if one did."""
    return finished.stop_token if finished.stop_sequence is None else finished.stop_sequence


def _whole(block: Block, custom: frozenset[str]) -> _ToolCall:
    """A call in an answer that is not streamed."""
    if block.name not in custom:
        return _ToolCall(None, block.call_id, "function", _Function(block.name, block.text))
    text = StringField("input").feed(block.text)
    return _ToolCall(None, block.call_id, "custom", custom=_Function(block.name, input=text))


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
        usage.prompt_tokens,
        usage.completion_tokens,
        total_tokens,
        _CachedTokens(usage.cached_tokens),
        _ReasoningTokens(usage.reasoning_tokens),
    )
