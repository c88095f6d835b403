"""The APIs through which an answer may be asked for, as far as a load needs them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from tools.clients.prompts import chatml
from tools.clients.sse import Answer, SseReader, Usage, cached_usage
from tools.clients.target import Chat


@dataclass(frozen=True, slots=True)
class Api:
    """One of them. `path` is below the target's; `body` is the JSON of a streamed request to a model."""

    name: Literal["chat", "completions", "messages", "responses"]
    path: str
    body: Callable[[Chat, str], bytes]
    reader: Callable[[Answer], SseReader]


class _Delta(msgspec.Struct):
    """Of a block of Messages."""

    text: str | None = None
    thinking: str | None = None
    stop_reason: str | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int = 0
    cache_read_input_tokens: int = 0


class _Error(msgspec.Struct):
    message: str = ""


class _MessagesEvent(msgspec.Struct):
    type: str
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: _Error | None = None


class _InputDetails(msgspec.Struct):
    cached_tokens: int = 0


class _ResponsesUsage(msgspec.Struct):
    input_tokens: int
    output_tokens: int
    input_tokens_details: _InputDetails


class _Response(msgspec.Struct):
    status: str
    usage: _ResponsesUsage | None = None
    error: _Error | None = None


class _ResponsesEvent(msgspec.Struct):
    type: str
    sequence_number: int
    delta: str | None = None
    response: _Response | None = None


class _CompletionChoice(msgspec.Struct):
    text: str = ""
    finish_reason: str | None = None


class _CompletionChunk(msgspec.Struct):
    choices: list[_CompletionChoice] = []
    usage: Usage | None = None
    error: Any = None


_MESSAGES = msgspec.json.Decoder(_MessagesEvent)
_RESPONSES = msgspec.json.Decoder(_ResponsesEvent)
_COMPLETIONS = msgspec.json.Decoder(_CompletionChunk)
_DONE = b"[DONE]"


class MessagesReader(SseReader):
    """Reads a stream of Messages."""

    last = "message_stop"

    def _payload(self, payload: bytes, now_s: float) -> None:
        event, answer = _MESSAGES.decode(payload), self._answer
        delta = event.delta
        if event.error is not None:
            answer.error = event.error.message
        elif event.type == self.last:
            self.is_done = True
        elif event.type == "message_delta" and delta is not None and delta.stop_reason is not None:
            answer.finish_reason = delta.stop_reason
            if (usage := event.usage) is not None:
                cached = usage.cache_read_input_tokens
                answer.usage = cached_usage((usage.input_tokens or 0) + cached, usage.output_tokens, cached)
        elif delta is not None and (text := delta.text or delta.thinking):
            answer.pieces.append(text)
            answer.content_s.append(now_s)
        elif event.type == "ping":
            answer.keepalives += 1


class ResponsesReader(SseReader):
    """Reads a stream of Responses, whose events are numbered from 0."""

    last = "response.completed"

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self._next = 0

    def _payload(self, payload: bytes, now_s: float) -> None:
        event, answer = _RESPONSES.decode(payload), self._answer
        if event.sequence_number != self._next:
            answer.violate(f"event {event.sequence_number} where {self._next} is due")
        self._next = event.sequence_number + 1
        response = event.response
        if event.delta:
            answer.pieces.append(event.delta)
            answer.content_s.append(now_s)
        elif response is None:
            pass
        elif response.error is not None:
            answer.error = response.error.message
        elif response.usage is not None:  # told at the end alone
            self.is_done = True
            answer.finish_reason = response.status
            usage = response.usage
            cached = usage.input_tokens_details.cached_tokens
            answer.usage = cached_usage(usage.input_tokens, usage.output_tokens, cached)


class CompletionsReader(SseReader):
    """Reads a stream of Completions."""

    def _payload(self, payload: bytes, now_s: float) -> None:
        answer = self._answer
        if payload == _DONE:
            self.is_done = True
            return
        chunk = _COMPLETIONS.decode(payload)
        if chunk.error is not None:
            answer.error = str(chunk.error)
        answer.usage = chunk.usage or answer.usage
        for choice in chunk.choices:
            answer.finish_reason = choice.finish_reason or answer.finish_reason
            if choice.text:
                answer.pieces.append(choice.text)
                answer.content_s.append(now_s)


def _messages_body(request: Chat, model: str) -> bytes:
    system, turns = _split(request)
    asked = {"model": model, "system": system, "messages": turns, "max_tokens": request.max_tokens}
    return msgspec.json.encode({**asked, "temperature": request.temperature, "stream": True})


def _responses_body(request: Chat, model: str) -> bytes:
    system, turns = _split(request)
    asked = {"model": model, "instructions": system, "input": turns, "max_output_tokens": request.max_tokens}
    return msgspec.json.encode({**asked, "temperature": request.temperature, "stream": True})


def _completions_body(request: Chat, model: str) -> bytes:
    asked = {"model": model, "prompt": chatml(request.messages), "max_tokens": request.max_tokens}
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    return msgspec.json.encode({**asked, "temperature": request.temperature, **streamed})


def _split(request: Chat) -> tuple[str | None, list[dict[str, str]]]:
    """The system message, if the first is one, and the others."""
    first, *others = request.messages
    return (first["content"], others) if first["role"] == "system" else (None, request.messages)


CHAT = Api("chat", "chat/completions", Chat.body, SseReader)
COMPLETIONS = Api("completions", "completions", _completions_body, CompletionsReader)
MESSAGES = Api("messages", "messages", _messages_body, MessagesReader)
RESPONSES = Api("responses", "responses", _responses_body, ResponsesReader)
