"""What a client sees of one answer: a sans-IO reader of Server-Sent Events that trusts nobody.

Rules it holds a chat stream to: every event is one or more `data:` lines and a blank line; each payload is
whole JSON; every chunk has the same `id`; the last event is `[DONE]`; nothing comes after it; a stream that
stops before it was cut. What breaks a rule is recorded in `Answer.violations`, never raised: a load test
counts misbehaviour, it does not die of it.

msgspec decodes a chunk in under a microsecond, so every one is checked and the client still costs little.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec


class _PromptDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """The usage object of OpenAI's API; what a server leaves out is 0."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that were not computed again."""
        details = self.prompt_tokens_details
        return (details.cached_tokens or 0) if details else 0

    @property
    def prefilled_tokens(self) -> int:
        """Tokens of the prompt that were computed for this request."""
        return self.prompt_tokens - self.cached_tokens


def cached_usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> Usage:
    """The usage of an API that counts in other words."""
    return Usage(prompt_tokens, completion_tokens, _PromptDetails(cached_tokens))


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _QueueProgress(msgspec.Struct):
    eta_s: float | None = None


class _Chunk(msgspec.Struct):
    id: str = ""
    choices: list[_Choice] = []
    usage: Usage | None = None
    queue_progress: _QueueProgress | None = None
    prompt_progress: Any = None
    error: Any = None  # of any shape: each server has its own


_DECODER = msgspec.json.Decoder(_Chunk)
_DONE = b"[DONE]"


@dataclass(slots=True)
class Answer:
    """One request as its client saw it. Times are seconds of the monotonic clock.

    `content_s` has one entry per delta with visible text: the arrival of the bytes that completed it.
    `ending` says how it ended: "done" (the protocol's own end), "left" (this client went), "refused" (an HTTP
    error status), "failed" (an error event), "cut" (the connection ended early), "evicted" (the server ended
    the connection of a client that did not read), or "" while it is going on.

    Where the client asked for progress, `waits` has what it was told of its wait, and when: seconds, None
    where the server could not say. `served_s` is when its prompt was first said to be worked on.
    """

    sent_s: float = 0.0
    status: int = 0
    first_byte_s: float | None = None
    content_s: list[float] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    frames: int = 0
    keepalives: int = 0
    body_bytes: int = 0
    chunk_id: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    waits: list[tuple[float, float | None]] = field(default_factory=list)
    served_s: float | None = None
    error: str = ""
    ended_s: float | None = None
    ending: str = ""
    violations: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The visible text so far."""
        return "".join(self.pieces)

    @property
    def ttft_s(self) -> float | None:
        """Seconds from the request's last byte sent to the first delta with text."""
        return self.content_s[0] - self.sent_s if self.content_s else None

    @property
    def answered_s(self) -> float | None:
        """As `ttft_s`, but until its end where an answer has no text: its prompt was computed either way."""
        return self.ttft_s if self.ended_s is None or self.content_s else self.ended_s - self.sent_s

    @property
    def completion_tokens(self) -> int:
        """What the server counted, else the deltas seen (a delta is a token or more)."""
        return self.usage.completion_tokens if self.usage else len(self.content_s)

    @property
    def is_whole(self) -> bool:
        """Ended as the protocol says, with a finish reason, and broke no rule."""
        return self.ending == "done" and self.finish_reason is not None and not self.violations

    @property
    def fate(self) -> str:
        """What became of it, in a line: for those that were not whole."""
        return f"{self.ending} {self.status} {self.error} {self.violations}"

    def violate(self, rule: str) -> None:
        """Record a broken rule, at most 20 per answer."""
        if len(self.violations) < 20:
            self.violations.append(rule)


class SseReader:
    """Feed it the body of a chat stream; it fills an `Answer`. Raises nothing, awaits nothing.

    A reader of another API takes its payloads in another way.
    """

    last = "[DONE]"
    """What ends a whole stream."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._pending = b""
        self.is_done = False

    def feed(self, data: bytes, now_s: float) -> None:
        """Take in body bytes that arrived at `now_s`, cut anywhere."""
        buffer = self._pending + data if self._pending else data
        at = 0
        # \r\n line ends are legal SSE but no server of this kind writes them; normalised when one is seen
        if b"\r" in buffer:
            buffer = buffer.replace(b"\r\n", b"\n")
        while (end := buffer.find(b"\n\n", at)) >= 0:
            self._event(buffer[at:end], now_s)
            at = end + 2
        self._pending = buffer[at:]

    def finish(self) -> None:
        """The body ended. Says in the answer what was missing."""
        if self._pending.strip():
            self._answer.violate(f"body ends inside an event: {self._pending[:40]!r}")
        if not self.is_done and not self._answer.error:
            self._answer.violate(f"body ends without {self.last}")

    def _event(self, event: bytes, now_s: float) -> None:
        answer = self._answer
        answer.frames += 1
        if self.is_done:
            answer.violate(f"event after {self.last}")
            return
        if event.startswith(b"data: ") and b"\n" not in event:
            payload = event[6:]
        else:
            lines = event.split(b"\n")
            payload = b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
            if not payload:
                if not all(line.startswith(b":") for line in lines):
                    answer.violate(f"event without data: {event[:40]!r}")
                answer.keepalives += 1
                return
        try:
            self._payload(payload, now_s)
        except msgspec.MsgspecError as error:
            answer.violate(f"data is no chunk: {error}")

    def _payload(self, payload: bytes, now_s: float) -> None:
        """The data of an event. Raises MsgspecError where it is not what this API sends."""
        if payload == _DONE:
            self.is_done = True
        else:
            self._chunk(_DECODER.decode(payload), now_s)

    def _chunk(self, chunk: _Chunk, now_s: float) -> None:
        answer = self._answer
        if chunk.error is not None:
            answer.error = str(chunk.error)
            return
        if chunk.id != answer.chunk_id:
            if answer.chunk_id:
                answer.violate(f"id changed from {answer.chunk_id} to {chunk.id}")
            answer.chunk_id = chunk.id
        if chunk.usage is not None:
            answer.usage = chunk.usage
        has_news = chunk.usage is not None or answer.frames == 1
        if chunk.queue_progress is not None:
            answer.waits.append((now_s, chunk.queue_progress.eta_s))
            has_news = True
        if chunk.prompt_progress is not None:
            answer.served_s = answer.served_s or now_s
            has_news = True
        for choice in chunk.choices:
            delta = choice.delta
            text = (delta.content or delta.reasoning_content) if delta else None
            if text:
                answer.pieces.append(text)
                answer.content_s.append(now_s)
                has_news = True
            if choice.finish_reason is not None:
                answer.finish_reason = choice.finish_reason
                has_news = True
        if not has_news:
            answer.keepalives += 1


def read_whole(answer: Answer, body: bytes, now_s: float) -> None:
    """Fill `answer` from the body of an answer that was not streamed."""
    try:
        chunk = _DECODER.decode(body)
    except msgspec.MsgspecError as error:
        answer.violate(f"body is no completion: {error}")
        return
    answer.chunk_id, answer.usage = chunk.id, chunk.usage
    if chunk.error is not None:
        answer.error = str(chunk.error)
    for choice in chunk.choices:
        if choice.message and choice.message.content:
            answer.pieces.append(choice.message.content)
            answer.content_s.append(now_s)
        answer.finish_reason = choice.finish_reason
