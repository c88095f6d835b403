"""What happens to a generation, as a stream of nouns and past tenses.

    Loading? Queued* Placed* Prefill* Started
                             (Sampled | BlockOpened BlockDelta* BlockClosed)* (Finished | Failed)
                             Started (…)* Placed* Continued (…)* (Finished | Failed)      by another engine
                             Started (…)* TakenBack Placed* Prefill* Started (…)* …       if it is collected
    Loading? Queued* (Prefill | Embedded)* (Finished | Failed)             where texts are embedded

Exactly one Finished or Failed ends every stream. Events are block-structured, the richest form any
dialect needs: Messages and Responses map them one to one, Chat flattens them. A `Collector` folds the same
events into the answer of a request that does not stream, so there is no second path. What comes with every
token is a Struct, which is made in an eighth of a dataclass's time.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from corral.errors import CorralError

Found = Literal["running", "kept", "saved"]
"""Where computed tokens lay: with a sequence that runs, or of one that has ended in the KV cache or in the
host's memory."""

BlockKind = Literal["text", "reasoning", "tool"]
FinishReason = Literal["stop", "stop_sequence", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural log probability of one token, with the likeliest alternatives where asked for.

    `raw` holds the token's bytes: a token need not end on a UTF-8 boundary.
    """

    raw: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one sequence. `cached_tokens` of the prompt were reused, not computed.

    Of the completion, `reasoning_tokens` were thoughts.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0

    @staticmethod
    def of_choices(usages: Iterable["Usage"]) -> "Usage":
        """The usage of a request whose choices all begin with its prompt; there is at least one.

        The prompt is counted once, as cached as it was for the choice that found least of it: the others
        reused what that one computed.
        """
        usages = list(usages)
        return Usage(
            prompt_tokens=usages[0].prompt_tokens,
            cached_tokens=min(usage.cached_tokens for usage in usages),
            completion_tokens=sum(usage.completion_tokens for usage in usages),
            reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
        )


@dataclass(frozen=True, slots=True)
class Queued:
    """The request waits for a slot; position 0 is next.

    `wait_s` is how long it will probably wait yet, None where nobody can say.
    """

    position: int
    wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Loading:
    """The request waits until its model is in memory."""

    model: str


@dataclass(frozen=True, slots=True)
class Placed:
    """One of several engines has the sequence now; `replica` names it for people."""

    replica: str


@dataclass(frozen=True, slots=True)
class Continued:
    """Another of several engines goes on with what was said; `replica` names it for people."""

    replica: str


@dataclass(frozen=True, slots=True)
class TakenBack:
    """What was said was in vain, and is said anew from its beginning.

    Only to who gets nothing before the answer is whole; see `GenerationRequest.is_collected`.
    """


@dataclass(frozen=True, slots=True)
class Prefill:
    """`done` of `total` prompt tokens are in the KV cache, `cached` of them since before it began.

    `time_ms` has passed since the engine got it.
    """

    done: int
    total: int
    cached: int = 0
    time_ms: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt is in, after `time_ms` in the engine; the first token comes with the same step.

    Its `cached_tokens` were `found`; None where nothing was, or the engine does not say where.

    `prompt_logprobs` has the prompt's tokens where that was asked for, each by what stands before it. Before
    the first there is nothing: its log probability is 0.
    """

    prompt_tokens: int
    cached_tokens: int
    time_ms: float = field(default=0.0, compare=False)
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    found: Found | None = field(default=None, compare=False)


class Sampled(msgspec.Struct, frozen=True):
    """One step gave the sequence `tokens` new tokens; the text they complete follows.

    Speculative decoding had guessed `draft` for it, each token's bytes; the first `accepted` were right.
    Of the new tokens `reasoning_tokens` were thoughts; the sum over a sequence is what its Usage says.
    """

    tokens: int
    draft: tuple[bytes, ...] = ()
    accepted: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class BlockOpened:
    """A block begins. A call opens when its name is complete: `call_id` and `name` are its own.

    The text of a call's block is the JSON text of its arguments; every prefix of it is a prefix of JSON.
    """

    index: int
    kind: BlockKind
    call_id: str | None = None
    name: str | None = None


class BlockDelta(msgspec.Struct, frozen=True):
    """More text of the open block. `logprobs` covers the tokens that `text` completes."""

    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class BlockClosed:
    """A block has ended. A call that is not whole was cut, or broke off: its arguments stay a prefix."""

    index: int
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vector of one input, counted from 0: of length 1, as 32-bit floats, little-endian."""

    index: int
    vector: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """The sequence ended as it should.

    `stop_sequence` is the stop string that ended it, if one did, and `stop_token` the token, if it was one of
    the request's own. Where `is_thought_cut`, the thought was ended before the model did, by its budget or by
    an operator.
    """

    reason: FinishReason
    stop_sequence: str | None
    usage: Usage
    stop_token: int | None = None
    is_thought_cut: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """The sequence ended as it should not."""

    error: CorralError


Event = (
    Loading
    | Queued
    | Placed
    | Continued
    | TakenBack
    | Prefill
    | Started
    | Sampled
    | BlockOpened
    | BlockDelta
    | BlockClosed
    | Embedded
    | Finished
    | Failed
)


@dataclass(frozen=True, slots=True)
class Block:
    """One block, whole. Of a call `text` is its arguments; see `BlockOpened` and `BlockClosed`."""

    kind: BlockKind
    text: str
    logprobs: tuple[TokenLogprob, ...]
    call_id: str | None = None
    name: str | None = None
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Completion:
    """The whole answer of one sequence, or the vectors of all inputs, in their order."""

    blocks: tuple[Block, ...]
    finished: Finished
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    vectors: tuple[bytes, ...] = ()

    @property
    def text(self) -> str:
        return "".join(block.text for block in self.blocks if block.kind == "text")

    @property
    def reasoning(self) -> str:
        return "".join(block.text for block in self.blocks if block.kind == "reasoning")

    @property
    def calls(self) -> tuple[Block, ...]:
        return tuple(block for block in self.blocks if block.kind == "tool")


@dataclass(slots=True)
class BlockCollector:
    """Folds the events of blocks; `blocks` are those opened so far."""

    _opened: list[BlockOpened] = field(default_factory=list)
    _texts: list[list[str]] = field(default_factory=list)
    _logprobs: list[list[TokenLogprob]] = field(default_factory=list)
    _broken: set[int] = field(default_factory=set)

    def feed(self, event: BlockOpened | BlockDelta | BlockClosed) -> None:
        match event:
            case BlockDelta(index, text, logprobs):
                self._texts[index].append(text)
                self._logprobs[index].extend(logprobs)
            case BlockOpened():
                self._opened.append(event)
                self._texts.append([])
                self._logprobs.append([])
            case BlockClosed(index, is_whole):
                if not is_whole:
                    self._broken.add(index)

    @property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(
            Block(
                opened.kind,
                "".join(texts),
                tuple(logprobs),
                opened.call_id,
                opened.name,
                index not in self._broken,
            )
            for index, (opened, texts, logprobs) in enumerate(
                zip(self._opened, self._texts, self._logprobs, strict=True)
            )
        )


@dataclass(slots=True)
class Collector:
    """Folds one sequence's events; `completion` is there once Finished has been fed."""

    completion: Completion | None = None
    _blocks: BlockCollector = field(default_factory=BlockCollector)
    _prompt_logprobs: tuple[TokenLogprob, ...] = ()
    _vectors: dict[int, bytes] = field(default_factory=dict)

    def feed(self, event: Event) -> None:
        """Take the next event; raises the error that a Failed event carries."""
        match event:
            case BlockOpened() | BlockDelta() | BlockClosed():
                self._blocks.feed(event)
            case Started():
                self._prompt_logprobs = event.prompt_logprobs
            case TakenBack():
                self._blocks = BlockCollector()
            case Embedded(index, vector):
                self._vectors[index] = vector
            case Failed(error):
                raise error
            case Finished():
                vectors = tuple(self._vectors[index] for index in sorted(self._vectors))
                self.completion = Completion(self._blocks.blocks, event, self._prompt_logprobs, vectors)


def collect(events: Iterable[Event]) -> Completion:
    """Fold a whole event stream at once; raises the error of a Failed event, ValueError if it has no end."""
    collector = Collector()
    for event in events:
        collector.feed(event)
    if collector.completion is None:
        raise ValueError("the event stream has no end")
    return collector.completion
