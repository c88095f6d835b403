"""What the engine needs to generate: a model, a KV cache of sequences, and one batched step. And, where the
model can, what makes vectors of texts.

Two things implement it: `llama` runs llama.cpp, `scripted` is deterministic and for tests. A KV cache is a
set of sequences, each a run of tokens at positions 0, 1, 2, ...; `Backend.decode` appends to them. To *cut*
a sequence is to drop its end, or to copy its beginning only. One thread calls a Backend and its KvCache; the
Vocabulary is safe from any thread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from corral.engine.local.costs import StepTime
from corral.engine.local.prompts.contract import Prompts
from corral.errors import EngineFailed
from corral.events import TokenLogprob
from corral.request import Sampling

SavedSequence = NDArray[np.uint8]
"""A sequence outside the cache, opaque: [bytes]."""


class Chunk(msgspec.Struct, frozen=True):
    """Tokens to append to one sequence in a step. Logits come for the last `rows` of them.

    A step has one for each of its lanes: so it is a Struct, which is made in an eighth of a dataclass's time.
    """

    sequence: int
    position: int
    tokens: Sequence[int]
    rows: int


class StepAborted(Exception):
    """A step was cut short by `Backend.abort`; the cache is as it was before the step."""


class BackendLost(EngineFailed):
    """The backend failed in a way that leaves its cache unknown; only `Backend.reset` helps."""


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How a model wants a conversation written: its Jinja template, None if it has none."""

    template: str | None
    bos_text: str
    eos_text: str


@dataclass(frozen=True, slots=True)
class Infill:
    """The control tokens of a model that fills in the middle: `prefix` text `suffix` text `middle` answer."""

    prefix: int
    suffix: int
    middle: int


class Vocabulary(Protocol):
    """A model's tokens. Pure and thread-safe."""

    @property
    def bos(self) -> int | None:
        """The token every prompt must begin with, None if the model wants none."""
        ...

    @property
    def pieces(self) -> Sequence[bytes]:
        """The bytes of every token, by token id; empty for control tokens."""
        ...

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end a generation."""
        ...

    @property
    def control_texts(self) -> dict[str, int]:
        """Control tokens by the text a template writes them as; never to be read from a message."""
        ...

    @property
    def user_texts(self) -> dict[str, int]:
        """Tokens that the tokenizer finds in any text before it does anything else, by that text."""
        ...

    @property
    def closers(self) -> tuple[int, ...]:
        """What a text that is embedded ends with, as `bos` is what it begins with."""
        ...

    @property
    def infill(self) -> Infill | None:
        """How it is asked for what stands between two texts; None where it does not know how."""
        ...

    @property
    def strips_left(self) -> frozenset[int]:
        """Control tokens that take away the blanks before them; `strips_right` those after them."""
        ...

    @property
    def strips_right(self) -> frozenset[int]: ...

    def tokenize(self, text: str, *, parse_control: bool, continues: bool = False) -> list[int]:
        """Tokens of `text`; texts of control tokens become those tokens only if `parse_control`.

        A text that `continues` one before it does not get the blank that some vocabularies begin with.
        Raises UnicodeEncodeError for half of a surrogate pair.
        """
        ...


class Model(Protocol):
    """What is fixed once a model is loaded."""

    @property
    def vocabulary(self) -> Vocabulary: ...
    @property
    def chat_format(self) -> ChatFormat: ...
    def make_ready(self, sampling: Sampling) -> None:
        """Do beforehand what would take long in `Backend.sampler`; from any thread."""
        ...

    @property
    def prompts(self) -> Prompts | None:
        """Who writes prompts for it in processes of their own; None where that is not needed."""
        ...


@dataclass(frozen=True, slots=True)
class CacheShape:
    """How much a KV cache holds, and what can be done to it.

    `ctx_tokens` fit in it, all sequences together, and `sequence_ctx_tokens` in one of its `sequences`.

    `can_cut` says whether a sequence can be cut at any position. Not so where a model keeps only a state
    (recurrent) or a window (sliding window attention). `shares_cells` says whether what sequences have in
    common is kept once, in one pool that attention passes over for each of them.

    A token of a saved sequence takes about `token_bytes`, at most.
    """

    ctx_tokens: int
    sequence_ctx_tokens: int
    sequences: int
    can_cut: bool = True
    shares_cells: bool = True
    token_bytes: int = 1


class KvCache(Protocol):
    """Where a backend keeps what it has computed, by the number of the sequence: 0 to `shape.sequences` - 1.

    Where it is lost in the middle of something, it raises BackendLost.
    """

    @property
    def shape(self) -> CacheShape: ...

    def length(self, sequence: int) -> int:
        """Tokens held of a sequence; 0 of one that nothing was put into."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Let the empty sequence `target` begin with the first `length` tokens of `source`."""
        ...

    def remove(self, sequence: int, start: int) -> None:
        """Forget positions `start` and later of a sequence."""
        ...

    def save(self, sequence: int) -> SavedSequence:
        """Copy all that is held of a sequence to the host's memory."""
        ...

    def load(self, saved: SavedSequence, target: int) -> None:
        """Put what was saved into the empty sequence `target`; the caller has seen to free cells."""
        ...


class Sampler(Protocol):
    """Picks the tokens of one sequence; holds its random state and the tokens its penalties look at."""

    def sample(self, row: int, allowed: NDArray[np.bool_] | None = None) -> int:
        """Pick from row `row` of the last step's logits, and remember the pick.

        `allowed` says which tokens may be picked, at least one: [vocabulary]; None: all.
        """
        ...

    def close(self) -> None:
        """Free what it holds; nothing of it works afterwards."""
        ...


Pooling = Literal["mean", "cls", "last"]
"""How the vectors of a text's tokens become one: their mean, the first's (as BERT's), or the last's."""


@dataclass(frozen=True, slots=True)
class EmbedShape:
    """What an Embedder takes and gives.

    Its vectors have `dimensions` numbers; an input has at most `input_tokens`. One step takes up to
    `batch_tokens` of up to `sequences` inputs. An input may be computed in several steps if it `can_split`;
    until all of it is computed, it holds as many of the `cells` as it has tokens.
    """

    pooling: Pooling
    dimensions: int
    input_tokens: int
    batch_tokens: int
    sequences: int
    cells: int
    can_split: bool
    can_undo: bool = True
    """Whether a step that failed leaves what was there before; else it leaves nothing of its inputs."""


class Embedder(Protocol):
    """Makes vectors of texts, beside the sequences of its Backend, on the same thread and aborted with it."""

    @property
    def shape(self) -> EmbedShape: ...

    def embed(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        """The vectors of a step: [chunks, dimensions], pooled over each chunk alone.

        A chunk is the next part of an input, by the number of its sequence: 0 to `shape.sequences` - 1.
        Raises EngineFailed or StepAborted, and what is held of the inputs is then as it was before or,
        if it cannot undo, nothing; or BackendLost.
        """
        ...

    def forget(self, sequence: int) -> None:
        """Hold nothing of an input any more."""
        ...


class Backend(Protocol):
    """A model that computes, over one KV cache. Not thread-safe, but for `abort`: one thread calls it."""

    @property
    def model(self) -> Model: ...

    @property
    def cache(self) -> KvCache:
        """What holds the sequences. Another one after `reset`, of the same shape."""
        ...

    @property
    def generates(self) -> bool:
        """Whether it generates text; not where the model only reads. Then nothing is ever decoded."""
        ...

    @property
    def embedder(self) -> Embedder | None:
        """What makes vectors of texts, if it can. Another one after `reset`, of the same shape."""
        ...

    @property
    def batch_tokens(self) -> int:
        """Most tokens one step may carry."""
        ...

    @property
    def batch_rows(self) -> int:
        """Most rows of logits one step may ask for, all chunks together."""
        ...

    def warm_up(self) -> Sequence[StepTime]:
        """Compute a token, and more while that is quick, and forget them; before anything else, once.

        What was timed of it; empty where steps say nothing of later ones. Raises StartupError if it fails.
        """
        ...

    def decode(self, chunks: Sequence[Chunk]) -> None:
        """Append the chunks; afterwards the rows of logits lie one after the other, in the chunks' order.

        Raises EngineFailed or StepAborted, and the cache is then as it was before; or BackendLost.
        """
        ...

    def logprobs(self, row: int, token: int, top: int) -> TokenLogprob:
        """Log probability of `token` in row `row` before sampling, and the `top` likeliest tokens."""
        ...

    def sampler(self, sampling: Sampling, prompt: Sequence[int]) -> Sampler:
        """A sampler for one sequence that begins with `prompt`; to be closed before `reset` and `close`."""
        ...

    def abort(self) -> None:
        """Cut the running step short. From any thread; holds until `rearm`."""
        ...

    def rearm(self) -> None:
        """Let steps run again."""
        ...

    def reset(self) -> None:
        """Begin again with an empty cache after BackendLost. Raises EngineFailed if that cannot be."""
        ...

    def close(self) -> None:
        """Free the model and its cache, also where `reset` failed; nothing of it works afterwards."""
        ...
