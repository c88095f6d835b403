"""One text that the engine continues: what it says so far, and how much of that the KV cache holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corral.events import Found

Tokens = NDArray[np.int32]
"""Token ids: [tokens]."""


@dataclass(slots=True, eq=False)
class Lane:
    """`tokens` are the prompt's and then what was sampled; `computed` of them lie in the cache.

    `key` is the caller's name for it. `sequence` is where in the cache it lies, None before it begins and
    after it stepped back. `cached_tokens` were `found` when it began, and not computed. One that is
    `is_scored` wants the logits of all its prompt, so nothing that is there already is of use to it.
    """

    key: int
    tokens: list[int]
    prompt: Tokens
    sequence: int | None = None
    computed: int = 0
    cached_tokens: int = 0
    found: Found | None = None
    is_scored: bool = False
    prompt_tokens: int = 0
    unsaid: int = 0
    """Tokens sampled since any of them was text to be told."""
    _wanted: Tokens | None = None

    @classmethod
    def of(cls, key: int, prompt: Sequence[int], *, is_scored: bool = False) -> "Lane":
        """A lane at its beginning."""
        array = np.array(prompt, np.int32)
        wanted = array[: 0 if is_scored else -1]
        return cls(key, list(prompt), array, is_scored=is_scored, prompt_tokens=len(array), _wanted=wanted)

    @property
    def wanted(self) -> Tokens:
        """What it looks for in the cache before it begins: all but the last token, whose logits it needs."""
        if self._wanted is None:
            self._wanted = np.array(self.tokens[: 0 if self.wants_scores else -1], np.int32)
        return self._wanted

    @property
    def wants_scores(self) -> bool:
        """Whether the logits of what is computed next tell something of its prompt that is not known yet."""
        return self.is_scored and len(self.tokens) == len(self.prompt)

    @property
    def has_begun(self) -> bool:
        return self.sequence is not None

    @property
    def pending(self) -> int:
        """Tokens that are not in the cache yet."""
        return len(self.tokens) - self.computed

    @property
    def is_decoding(self) -> bool:
        tokens = len(self.tokens)  # asked for every lane several times a step, so it asks no other property
        return tokens - self.computed == 1 and tokens > self.prompt_tokens

    def computed_tokens(self) -> Tokens:
        """What the cache holds of it."""
        return np.array(self.tokens[: self.computed], np.int32)

    def step_back(self) -> None:
        """It is not in the cache any more, and will look there for all it has said."""
        self.sequence = None
        self.computed = 0
        self._wanted = None
