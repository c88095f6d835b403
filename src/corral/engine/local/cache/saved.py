"""The books of what lies in the host's memory: prefixes that have left the KV cache. Pure."""

from collections.abc import Iterator
from itertools import count

from corral.engine.local.cache.operations import Drop, Operation, Save
from corral.engine.local.cache.prefixes import PrefixIndex
from corral.engine.local.lane import Tokens

MOST_STATES = 256  # each is an allocation of its own


class SavedStates:
    """At most `most_tokens` in MOST_STATES states; the least recently used ones go for new ones.

    `can_cut` is the model's, see CacheShape. What is to be done to the states is returned.
    """

    def __init__(self, most_tokens: int, *, can_cut: bool) -> None:
        self.most_tokens = most_tokens
        self._can_cut = can_cut
        self._index = PrefixIndex()
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[int]:
        """Their numbers, the least recently used first."""
        return iter(self._index)

    @property
    def total(self) -> int:
        """Tokens of all states together."""
        return self._index.total

    def tokens(self, state: int) -> Tokens:
        return self._index[state]

    def longest(self, tokens: Tokens) -> tuple[int, int] | None:
        """The state that shares the longest prefix that can be had of it, and its length."""
        return self._index.longest(tokens, whole_only=not self._can_cut)

    def save(self, sequence: int, tokens: Tokens) -> list[Operation]:
        """Save a sequence of the cache that holds `tokens`, unless that is too much, or here already."""
        if self._index.pinned_total + len(tokens) > self.most_tokens:
            return []
        if self._can_cut and self._index.covers(tokens):
            return []
        operations: list[Operation] = []
        if self._can_cut:
            operations += [self._drop(state) for state in self._index.prefixes_of(tokens)]
        state = next(self._numbers)
        self._index.add(state, tokens)
        operations.append(Save(sequence, state))
        while self.total > self.most_tokens or len(self) > MOST_STATES:
            oldest = self._index.oldest()
            assert oldest is not None, "what is pinned fits beside it"
            operations.append(self._drop(oldest))
        return operations

    def pin(self, state: int) -> None:
        """The state is about to be loaded: it stays until it is unpinned."""
        self._index.pin(state)

    def unpin(self, state: int) -> None:
        """The state may go again, as the most recently used one."""
        self._index.unpin(state)
        self._index.touch(state)

    def take(self, state: int) -> Drop:
        """The state is forgotten, since a sequence of the cache has all of it."""
        return self._drop(state)

    def _drop(self, state: int) -> Drop:
        self._index.drop(state)
        return Drop(state)
