"""What an upstream streams, as our events. Pure: the data of its events in, ours out.

    Prefill* (Started (Sampled | BlockOpened BlockDelta* BlockClosed)* Finished)?

An answer is whole when it has said why it ended. One that did not is a fault, however politely the connection
was closed. What it counts is taken where it can be true, and counted here where it is missing or cannot.
"""

import secrets
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from corral.engine.upstream.faults import Fault, broken, count_of, fault_of_frame, prompt_param
from corral.errors import UpstreamFailed
from corral.events import (
    BlockClosed,
    BlockDelta,
    BlockKind,
    BlockOpened,
    Event,
    Finished,
    FinishReason,
    Prefill,
    Sampled,
    Started,
    TokenLogprob,
    Usage,
)
from corral.request import GenerationRequest

DONE: Final = b"[DONE]"

_REASONS: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "eos": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Alternative(msgspec.Struct, gc=False):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _Logprob(_Alternative, gc=False):
    top_logprobs: list[_Alternative] | None = None


class _Logprobs(msgspec.Struct, gc=False):
    content: list[_Logprob] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    text: str | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    matched_stop: str | int | list[int] | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    prompt_progress: Any = None


_decoder: Final = msgspec.json.Decoder(_Chunk)


class Answer:
    """One answer as it comes."""

    def __init__(self, request: GenerationRequest, prompt_tokens: int) -> None:
        """`prompt_tokens` is what was guessed of the prompt's length, until the upstream says."""
        self._request = request
        self._param = prompt_param(request)
        self._prompt_tokens = prompt_tokens
        self._cached_tokens = 0
        self.sampled_tokens = 0
        self._reasoning_tokens = 0
        self._usage: Mapping[str, Any] = {}
        self._reason: FinishReason | None = None
        self._stop: str | int | None = None
        self._kind: BlockKind | None = None
        self._call: int | str | None = None
        self._call_id: str | None = None
        self._arguments: list[str] = []
        self._has_called = False
        self._held: tuple[TokenLogprob, ...] = ()
        """Of tokens that have completed no character yet."""
        self._blocks = 0
        self.has_begun = False
        """Whether something of the answer itself was heard: from then on there is no second beginning."""
        self.is_over = False
        """Whether it has said so itself."""
        self.counts_tokens = False
        """Whether `sampled_tokens` is what the upstream counts; else it is of chunks."""
        self.knows_prompt = False
        """Whether it has said how long the prompt is."""
        self.said = 0
        """Grows with all that brings the answer on: not with what is said again, or says nothing."""
        self._prefilled_tokens = -1
        self._counted_tokens = 0

    def feed(self, data: bytes) -> list[Event]:
        """What one event of the stream tells; raises Fault for an error, and for what is none of the API."""
        if data == DONE:
            self.is_over = True
            return []
        try:
            chunk = _decoder.decode(data)
        except (msgspec.DecodeError, RecursionError):
            raise broken("sent what is no answer") from None
        if chunk.error is not None:
            raise fault_of_frame(chunk.error, param=self._param)
        events: list[Event] = []
        if chunk.prompt_progress is not None:
            self._progress(chunk.prompt_progress, events)
        if isinstance(chunk.usage, dict):
            self._usage = chunk.usage
            if (so_far := count_of(chunk.usage.get("completion_tokens")) or 0) > self._counted_tokens:
                self._counted_tokens = so_far
                self.said += 1
        for choice in chunk.choices or ():
            self._choice(choice, events)
        return events

    def end(self) -> list[Event]:
        """The last events, once nothing more comes; raises Fault if it was not whole."""
        if self._reason is None:
            raise broken("ended without having finished its answer")
        events: list[Event] = []
        usage = self._told_usage()
        if not self.has_begun:
            self._begin(events)
        missing = usage.completion_tokens - self.sampled_tokens
        if missing > 0:
            thoughts = max(0, usage.reasoning_tokens - self._reasoning_tokens)
            events.append(Sampled(missing, reasoning_tokens=min(missing, thoughts)))
        if self._held and self._kind == "text":
            events.append(BlockDelta(self._blocks - 1, "", self._held))
        self._close(events)
        stop = self._stop if self._reason in ("stop", "length") else None
        reason, text = self._reason, None
        if isinstance(stop, str) and stop in self._request.stop:
            reason, text = "stop_sequence", stop
        elif reason == "stop" and self._has_called:  # some say so, OpenAI itself of a call that was forced
            reason = "tool_calls"
        token = stop if isinstance(stop, int) and stop in self._request.sampling.stop_tokens else None
        events.append(Finished(reason, text, usage, stop_token=token))
        return events

    def _told_usage(self) -> Usage:
        prompt_tokens = count_of(self._usage.get("prompt_tokens"))
        completion_tokens = count_of(self._usage.get("completion_tokens"))
        prompt_details = self._usage.get("prompt_tokens_details")
        cached_tokens = (
            count_of(prompt_details.get("cached_tokens")) if isinstance(prompt_details, dict) else None
        )
        details = self._usage.get("completion_tokens_details")
        reasoning_tokens = (
            count_of(details.get("reasoning_tokens")) if isinstance(details, dict) else None
        ) or self._reasoning_tokens
        if prompt_tokens:
            self._prompt_tokens = prompt_tokens
        if cached_tokens is not None:
            self._cached_tokens = cached_tokens
        completion_tokens = completion_tokens or self.sampled_tokens  # it is not 0 of what was heard
        return Usage(
            prompt_tokens=self._prompt_tokens,
            cached_tokens=min(self._cached_tokens, self._prompt_tokens),
            completion_tokens=completion_tokens,
            reasoning_tokens=min(reasoning_tokens, completion_tokens),
        )

    def _progress(self, progress: object, events: list[Event]) -> None:
        if not isinstance(progress, dict) or self.has_begun:
            return
        total, done = count_of(progress.get("total")), count_of(progress.get("processed"))
        if not total or done is None:
            return
        self._prompt_tokens = total
        self.knows_prompt = True
        self._cached_tokens = min(count_of(progress.get("cache")) or 0, total)
        if done > self._prefilled_tokens:
            self._prefilled_tokens = done
            self.said += 1
        time_ms = progress.get("time_ms")
        events.append(
            Prefill(
                min(done, total),
                total,
                self._cached_tokens,
                float(time_ms) if isinstance(time_ms, int | float) else 0.0,
            )
        )

    def _choice(self, choice: _Choice, events: list[Event]) -> None:
        if self._reason is None:
            self._said(choice, events)
        if choice.finish_reason is not None and self._reason is None:
            reason = _REASONS.get(choice.finish_reason)
            if reason is None:
                word = choice.finish_reason[:40]
                error = UpstreamFailed(f"the engine behind this server ended its answer with {word!r}")
                raise Fault(error, elsewhere=False, blames=False)
            self._reason = reason
            self.said += 1
            matched = choice.matched_stop
            self._stop = choice.stop_reason if choice.stop_reason is not None else None
            if self._stop is None and isinstance(matched, str | int):
                self._stop = matched

    def _said(self, choice: _Choice, events: list[Event]) -> None:
        delta = choice.delta
        thought = text = ""
        calls: list[_Call] = []
        if delta is not None:
            thought = delta.reasoning_content or delta.reasoning or ""
            text = delta.content or delta.refusal or ""
            calls = delta.tool_calls or []
        elif choice.text:
            text = choice.text
        logprobs = self._held + _logprobs(choice.logprobs)
        if not (thought or text or calls):
            self._held = logprobs
            return
        self._held = ()
        self.said += 1
        if not self.has_begun:
            self._begin(events)
        self._sample(len(logprobs), bool(thought), events)
        if thought:
            self._open("reasoning", events)
            events.append(BlockDelta(self._blocks - 1, thought))
        if text:
            self._open("text", events)
            events.append(BlockDelta(self._blocks - 1, text, logprobs))
        for call in calls:
            self._called(call, events)

    def _begin(self, events: list[Event]) -> None:
        self.has_begun = True
        early = count_of(self._usage.get("prompt_tokens"))
        if early:
            self._prompt_tokens = early
            self.knows_prompt = True
        events.append(Started(self._prompt_tokens, self._cached_tokens))

    def _sample(self, tokens: int, is_thought: bool, events: list[Event]) -> None:
        """A chunk is a token, unless the upstream says how many it has, here or in all so far."""
        so_far = count_of(self._usage.get("completion_tokens"))
        self.counts_tokens = tokens > 0 or so_far is not None
        if so_far is not None:
            tokens = so_far - self.sampled_tokens
            if tokens <= 0:
                return
        tokens = max(1, tokens)
        self.sampled_tokens += tokens
        self._reasoning_tokens += tokens if is_thought else 0
        events.append(Sampled(tokens, reasoning_tokens=tokens if is_thought else 0))

    def _called(self, call: _Call, events: list[Event]) -> None:
        function = call.function or _Function()
        which = call.index if call.index is not None else call.id
        is_other = which != self._call or bool(call.id and call.id != self._call_id)
        # One that is neither numbered nor named by an id is told whole: its name begins it.
        if function.name and (self._kind != "tool" or is_other or which is None):
            self._close(events)
            self._kind, self._call, self._arguments = "tool", which, []
            self._call_id = call.id
            self._has_called = True
            events.append(
                BlockOpened(
                    self._blocks, "tool", call.id or f"call_{secrets.token_hex(12)}", name=function.name
                )
            )
            self._blocks += 1
        elif self._kind != "tool" or (which is not None and which != self._call):
            raise broken("sent pieces of a call that it had not begun, or had ended")
        if function.arguments:
            self._arguments.append(function.arguments)
            events.append(BlockDelta(self._blocks - 1, function.arguments))

    def _open(self, kind: BlockKind, events: list[Event]) -> None:
        if self._kind == kind:
            return
        self._close(events)
        self._kind = kind
        events.append(BlockOpened(self._blocks, kind))
        self._blocks += 1

    def _close(self, events: list[Event]) -> None:
        if self._kind is None:
            return
        is_whole = True
        if self._kind == "tool":
            arguments = "".join(self._arguments)
            if not arguments.strip() and self._reason != "length":
                events.append(BlockDelta(self._blocks - 1, "{}"))  # some say nothing for no arguments
            else:
                is_whole = _is_json(arguments)
        events.append(BlockClosed(self._blocks - 1, is_whole))
        self._kind = None


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return False
    return True


def _logprobs(given: _Logprobs | None) -> tuple[TokenLogprob, ...]:
    if given is None or not given.content:
        return ()
    return tuple(
        TokenLogprob(
            _raw(entry),
            entry.logprob,
            tuple(TokenLogprob(_raw(each), each.logprob) for each in entry.top_logprobs or ()),
        )
        for entry in given.content
    )


def _raw(entry: _Alternative) -> bytes:
    if entry.bytes is not None and all(0 <= byte < 256 for byte in entry.bytes):
        return bytes(entry.bytes)
    return entry.token.encode("utf-8", "replace")
