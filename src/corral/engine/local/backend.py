"""What the engine needs from a model: a vocabulary, a KV cache of sequences, and one batched step.

Two things implement it: `engine.llama` runs llama.cpp, `engine.scripted` is deterministic and for tests.
A backend's KV cache is a set of sequences, each a run of tokens at positions 0, 1, 2, ...; `decode`
appends to them. Only the worker thread calls a Backend; the Vocabulary is safe from any thread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from corral.errors import EngineFailed
from corral.events import TokenLogprob
from corral.request import Sampling

SavedSequence = NDArray[np.uint8]
"""A sequence outside the cache, opaque."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens to append to one sequence in a step. Logits come for the last `rows` of them."""

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

    def tokenize(self, text: str, *, parse_control: bool) -> list[int]:
        """Tokens of `text`; texts of control tokens become those tokens only if `parse_control`."""
        ...


class Sampler(Protocol):
    """Picks the tokens of one sequence; holds its random state and the tokens its penalties look at."""

    def sample(self, row: int) -> int:
        """Pick from row `row` of the last step's logits, and remember the pick."""
        ...

    def close(self) -> None: ...


class Backend(Protocol):
    """A model and its KV cache. Not thread-safe, but for `abort`: one thread calls it."""

    @property
    def vocabulary(self) -> Vocabulary: ...
    @property
    def chat_format(self) -> ChatFormat: ...
    @property
    def ctx_tokens(self) -> int:
        """Tokens the KV cache holds, all sequences together."""
        ...

    @property
    def sequence_ctx_tokens(self) -> int:
        """Tokens one sequence may hold."""
        ...

    @property
    def batch_tokens(self) -> int:
        """Most tokens one step may carry."""
        ...

    @property
    def sequences(self) -> int:
        """Sequences the cache can tell apart."""
        ...

    @property
    def can_cut(self) -> bool:
        """Whether a sequence can be cut, or a part of it copied, at any position.

        Not so where a model keeps only a state (recurrent) or a window (sliding window attention).
        """
        ...

    @property
    def shares_cells(self) -> bool:
        """Whether what sequences have in common is kept once."""
        ...

    def decode(self, chunks: Sequence[Chunk]) -> None:
        """Append the chunks; afterwards the rows of logits lie one after the other, in the chunks' order.

        Raises EngineFailed or StepAborted, and the cache is then as it was before; or BackendLost.
        """
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

    def logprobs(self, row: int, token: int, top: int) -> TokenLogprob:
        """Log probability of `token` in row `row` before sampling, and the `top` likeliest tokens."""
        ...

    def sampler(self, sampling: Sampling, prompt: Sequence[int]) -> Sampler: ...

    def remove(self, sequence: int, start: int) -> None:
        """Forget positions `start` and later of a sequence."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Let the empty sequence `target` begin with the first `length` tokens of `source`."""
        ...

    @property
    def token_bytes(self) -> int:
        """Bytes that each token of a saved sequence takes, at most about."""
        ...

    def save(self, sequence: int) -> SavedSequence:
        """Copy all that the cache holds of a sequence to the host's memory. Raises BackendLost."""
        ...

    def load(self, saved: SavedSequence, target: int) -> None:
        """Put what was saved into the empty sequence `target`.

        Raises BackendLost: the caller has seen to it that there are cells free.
        """
        ...

    def length(self, sequence: int) -> int:
        """Tokens the cache holds for a sequence."""
        ...

    def close(self) -> None: ...
