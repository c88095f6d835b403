"""Anthropic's Messages: `POST /v1/messages`.

What is taken from a request is in `messages_request`. Blocks are streamed strictly one after the other;
events map to them one to one. Decisions where the reference leaves room or real clients need more:

- `message_start` goes out on acceptance, with the prompt's tokens. How many of them were cached is known
  later, so the last `message_delta` tells the whole usage; Anthropic's helpers let it win.
- A keepalive is a `ping`, which Claude Code does not count as life, and then something that it does: an empty
  delta of the open block, or between blocks a `message_delta` that says nothing new. The `ping` tells where a
  request is that does not answer yet, which all of Anthropic's clients overlook.
- A thought is signed, so that clients keep it. The signature of one that was asked to be left out holds it:
  it is known when it comes back. Thoughts without a signature, or with somebody else's, are taken too.
- An answer that ended because the context is full says `model_context_window_exceeded`.
- A call that was cut is told as far as it went; the whole answer closes its JSON, which a client can then
  read.
- A failed stream ends with an `error` event and without `message_stop`.

Sources: https://docs.anthropic.com/en/api/messages-streaming and the types of anthropic-python 2.14.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from corral.decoding.json_scan import completed
from corral.dialects import Head, Headers
from corral.dialects.anthropic.errors import AnthropicErrors, error_frame
from corral.dialects.anthropic.messages_request import ANTHROPIC_CALL, OUR_CALL, parse_count, parse_messages
from corral.dialects.progress import LoadingProgress, PromptProgress, QueueProgress, Whereabouts
from corral.dialects.seal import Seal
from corral.dialects.wire import frame
from corral.errors import CorralError
from corral.events import (
    Block,
    BlockClosed,
    BlockDelta,
    BlockKind,
    BlockOpened,
    Completion,
    Event,
    Finished,
    Loading,
    Prefill,
    Queued,
    Sampled,
    Started,
    Usage,
)
from corral.request import GenerationRequest

# The wire. Field order is the order on it. None of these can be part of a reference cycle, hence gc=False.


class _ThinkingTokens(msgspec.Struct, gc=False):
    thinking_tokens: int


class _Usage(msgspec.Struct, gc=False, omit_defaults=True):
    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: _ThinkingTokens | None = None


class _TextBlock(msgspec.Struct, gc=False, tag_field="type", tag="text"):
    text: str


class _ThinkingBlock(msgspec.Struct, gc=False, tag_field="type", tag="thinking"):
    thinking: str
    signature: str


class _ToolUseBlock(msgspec.Struct, gc=False, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: msgspec.Raw


_ContentBlock = _TextBlock | _ThinkingBlock | _ToolUseBlock


class _TextDelta(msgspec.Struct, gc=False, tag_field="type", tag="text_delta"):
    text: str


class _ThinkingDelta(msgspec.Struct, gc=False, tag_field="type", tag="thinking_delta"):
    thinking: str


class _SignatureDelta(msgspec.Struct, gc=False, tag_field="type", tag="signature_delta"):
    signature: str


class _InputDelta(msgspec.Struct, gc=False, tag_field="type", tag="input_json_delta"):
    partial_json: str


_Delta = _TextDelta | _ThinkingDelta | _SignatureDelta | _InputDelta


class _Message(msgspec.Struct, gc=False, tag_field="type", tag="message"):
    id: str
    role: str
    model: str
    content: list[_ContentBlock]
    stop_reason: str | None
    stop_sequence: str | None
    usage: _Usage


class _MessageStart(msgspec.Struct, gc=False, tag_field="type", tag="message_start"):
    message: _Message


class _BlockStart(msgspec.Struct, gc=False, tag_field="type", tag="content_block_start"):
    index: int
    content_block: _ContentBlock


class _BlockDelta(msgspec.Struct, gc=False, tag_field="type", tag="content_block_delta"):
    index: int
    delta: _Delta


class _BlockStop(msgspec.Struct, gc=False, tag_field="type", tag="content_block_stop"):
    index: int


class _Stop(msgspec.Struct, gc=False):
    stop_reason: str | None
    stop_sequence: str | None


class _DeltaUsage(msgspec.Struct, gc=False, omit_defaults=True):
    output_tokens: int
    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: _ThinkingTokens | None = None


class _MessageDelta(msgspec.Struct, gc=False, tag_field="type", tag="message_delta"):
    delta: _Stop
    usage: _DeltaUsage


class _InputTokens(msgspec.Struct, gc=False):
    input_tokens: int


class _Ping(msgspec.Struct, gc=False, tag_field="type", tag="ping"):
    queue_progress: QueueProgress | UnsetType = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET
    loading_progress: LoadingProgress | UnsetType = UNSET


_PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'
_MESSAGE_STOP: Final = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_EMPTY: Final = msgspec.Raw(b"{}")


class MessagesStream:
    """Encodes one streamed answer; a `StreamEncoder`."""

    def __init__(self, head: Head, call: "MessagesCall") -> None:
        self._head = head
        self._call = call
        self._index = -1
        self._kind: BlockKind | None = None
        """Of the open block."""
        self._thought: list[str] = []
        self._output_tokens = 0
        self._whereabouts = Whereabouts()

    def start(self) -> bytes:
        head = self._head
        usage = _Usage(head.prompt_tokens, 0)
        message = _Message(head.id, "assistant", head.model, [], None, None, usage)
        return _event("message_start", _MessageStart(message))

    def encode(self, choice: int, event: Event) -> bytes:
        """A Failed shows nothing here: `fail` ends the stream."""
        match event:
            case BlockDelta(text=text):
                return self._said(text)
            case Sampled(tokens=tokens):
                self._output_tokens += tokens
                return b""
            case BlockOpened():
                return self._opened(event)
            case BlockClosed():
                return self._closed()
            case Loading() | Queued() | Prefill() | Started():
                self._whereabouts.hear(event)
                return b""
            case Finished():
                reason, sequence = _stop(event, self._call.request, self._head)
                usage = _usage(event.usage)
                delta = _DeltaUsage(
                    usage.output_tokens,
                    usage.input_tokens,
                    usage.cache_creation_input_tokens,
                    usage.cache_read_input_tokens,
                    usage.output_tokens_details,
                )
                return _event("message_delta", _MessageDelta(_Stop(reason, sequence), delta))
            case _:
                return b""

    def keepalive(self) -> bytes:
        if self._kind is None:
            usage = _DeltaUsage(self._output_tokens)
            return self._ping() + _event("message_delta", _MessageDelta(_Stop(None, None), usage))
        return _PING + self._delta(_delta(self._kind, ""))

    def _ping(self) -> bytes:
        where = self._whereabouts
        return _event("ping", _Ping(where.queue, where.prompt, where.loading)) if where.is_known else _PING

    def end(self) -> bytes:
        return _MESSAGE_STOP

    def fail(self, error: CorralError) -> bytes:
        return error_frame(error)

    def _opened(self, event: BlockOpened) -> bytes:
        self._index += 1
        self._kind = event.kind
        block: _ContentBlock
        match event.kind:
            case "text":
                block = _TextBlock("")
            case "reasoning":
                block = _ThinkingBlock("", "")
            case "tool":
                block = _ToolUseBlock(_their_call(event.call_id), event.name or "", _EMPTY)
        return _event("content_block_start", _BlockStart(self._index, block))

    def _said(self, text: str) -> bytes:
        assert self._kind is not None
        if self._kind == "reasoning":
            self._thought.append(text)
            if not self._call.shows_thinking:
                return b""
        return self._delta(_delta(self._kind, text))

    def _closed(self) -> bytes:
        frames = b""
        if self._kind == "reasoning":
            frames = self._delta(_SignatureDelta(self._call.signature("".join(self._thought))))
            self._thought.clear()
        self._kind = None
        return frames + _event("content_block_stop", _BlockStop(self._index))

    def _delta(self, delta: _Delta) -> bytes:
        return _event("content_block_delta", _BlockDelta(self._index, delta))


@dataclass(frozen=True, slots=True)
class MessagesCall:
    """A parsed request and how to answer it; a `Call`."""

    request: GenerationRequest
    model: str
    wants_stream: bool
    shows_thinking: bool
    seal: Seal

    def stream(self, head: Head) -> MessagesStream:
        return MessagesStream(head, self)

    def complete(self, head: Head, completions: Sequence[Completion]) -> bytes:
        [completion] = completions
        reason, sequence = _stop(completion.finished, self.request, head)
        content = [self._block(block) for block in completion.blocks]
        usage = _usage(completion.finished.usage)
        return msgspec.json.encode(
            _Message(head.id, "assistant", head.model, content, reason, sequence, usage)
        )

    def signature(self, thought: str) -> str:
        """What goes with a thought; where that is not shown, it is in it."""
        return self.seal.signature(thought) if self.shows_thinking else self.seal.sealed(thought)

    def _block(self, block: Block) -> _ContentBlock:
        match block.kind:
            case "text":
                return _TextBlock(block.text)
            case "reasoning":
                shown = block.text if self.shows_thinking else ""
                return _ThinkingBlock(shown, self.signature(block.text))
            case "tool":
                arguments = (block.text or "{}") if block.is_whole else completed(block.text)
                raw = msgspec.Raw(arguments.encode())
                return _ToolUseBlock(_their_call(block.call_id), block.name or "", raw)


class MessagesDialect(AnthropicErrors):
    """The Messages API; a `Dialect`."""

    id_prefix = "msg_"

    def __init__(self, seal_key: bytes) -> None:
        """`seal_key` signs thoughts that leave the server."""
        self.seal = Seal(seal_key)

    def parse(self, body: bytes, headers: Headers, client: str) -> MessagesCall:
        """Parse a request body; raises InvalidRequest. Any `anthropic-version` will do."""
        parsed = parse_messages(body, self.seal)
        return MessagesCall(
            parsed.request, parsed.model, parsed.wants_stream, parsed.shows_thinking, self.seal
        )


class CountDialect(AnthropicErrors):
    """`POST /v1/messages/count_tokens`, how long a prompt is; a `Counter`."""

    def __init__(self, messages: MessagesDialect) -> None:
        self._seal = messages.seal

    def parse(self, body: bytes, headers: Headers, client: str) -> GenerationRequest:
        return parse_count(body, self._seal)

    def told(self, prompt_tokens: int) -> bytes:
        return msgspec.json.encode(_InputTokens(prompt_tokens))


def _event(name: str, message: msgspec.Struct) -> bytes:
    return b"event: %b\n%b" % (name.encode(), frame(message))


def _delta(kind: BlockKind, text: str) -> _Delta:
    match kind:
        case "text":
            return _TextDelta(text)
        case "reasoning":
            return _ThinkingDelta(text)
        case "tool":
            return _InputDelta(text)


def _their_call(id: str | None) -> str:
    """A call's id as Anthropic's begin; `messages_request` takes it back."""
    id = id or ""
    return ANTHROPIC_CALL + id.removeprefix(OUR_CALL) if id.startswith(OUR_CALL) else id


def _stop(finished: Finished, request: GenerationRequest, head: Head) -> tuple[str, str | None]:
    """Anthropic's stop reason, and the stop sequence that was met."""
    match finished.reason:
        case "stop":
            return "end_turn", None
        case "stop_sequence":
            return "stop_sequence", finished.stop_sequence
        case "tool_calls":
            return "tool_use", None
        case "length":
            prompt, said = finished.usage.prompt_tokens, finished.usage.completion_tokens
            had_all = request.max_tokens is not None and said >= request.max_tokens
            is_full = head.ctx_tokens is not None and prompt + said >= head.ctx_tokens
            return ("model_context_window_exceeded" if is_full and not had_all else "max_tokens"), None


def _usage(usage: Usage) -> _Usage:
    """Anthropic counts cached tokens apart from `input_tokens`."""
    return _Usage(
        usage.prompt_tokens - usage.cached_tokens,
        usage.completion_tokens,
        0,
        usage.cached_tokens,
        _ThinkingTokens(usage.reasoning_tokens) if usage.reasoning_tokens else None,
    )
