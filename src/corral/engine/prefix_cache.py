"""What finished, stopped and cancelled sequences leave behind, for later prompts to begin with.

Pure: entries are sequence ids with their tokens; the scheduler decides what to copy and what to forget.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]


def common_prefix(a: Tokens, b: Tokens) -> int:
    """How many tokens two sequences begin with in common; 5 us for 8,000."""
    length = min(len(a), len(b))
    differs = a[:length] != b[:length]
    return int(differs.argmax()) if differs.any() else length


class PrefixCache:
    """Entries in the order of their last use, the least recent first."""

    def __init__(self) -> None:
        self._entries: dict[int, Tokens] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[int]:
        return iter(self._entries)

    def length(self, sequence: int) -> int:
        return len(self._entries[sequence])

    def add(self, sequence: int, tokens: Tokens) -> None:
        """Remember a sequence as the most recently used."""
        self._entries[sequence] = tokens

    def touch(self, sequence: int) -> None:
        """The entry was used just now."""
        self._entries[sequence] = self._entries.pop(sequence)

    def drop(self, sequence: int) -> None:
        """The sequence is forgotten."""
        del self._entries[sequence]

    def longest(self, tokens: Tokens, *, whole_only: bool) -> tuple[int, int] | None:
        """The entry that shares the longest prefix, and its length; None if none shares any.

        With `whole_only` an entry counts only if all of it is a prefix: the memory cannot be cut.
        """
        best: tuple[int, int] | None = None
        for sequence, entry in self._entries.items():
            length = common_prefix(entry, tokens)
            if whole_only and length < len(entry):
                continue
            if length > 0 and (best is None or length >= best[1]):
                best = sequence, length
        return best
