"""The books of what lies in the host's memory: prefixes that have left the KV cache. Pure."""

from itertools import count

from corral.engine.local.cache.operations import Drop, MemoryOperation, Save
from corral.engine.local.cache.prefixes import PrefixCache, Tokens

MOST_STATES = 256  # every new prompt is compared with each, at 2 us


class SavedStates(PrefixCache):
    """At most `most_tokens` in MOST_STATES states; the least recently used ones go for new ones.

    `can_cut` is the model's, see Backend. What is to be done to the states is appended to `memory`.
    """

    def __init__(self, most_tokens: int, *, can_cut: bool, memory: list[MemoryOperation]) -> None:
        super().__init__()
        self._most_tokens = most_tokens
        self._can_cut = can_cut
        self._memory = memory
        self._numbers = count()

    def save(self, sequence: int, tokens: Tokens) -> None:
        """Save a sequence of the cache that holds `tokens`, unless that is too much, or here already."""
        if len(tokens) > self._most_tokens or (self._can_cut and self.covers(tokens)):
            return
        if self._can_cut:
            for state in self.prefixes_of(tokens):
                self._forget(state)
        state = next(self._numbers)
        self._memory.append(Save(sequence, state))
        self.keep(state, tokens)

    def keep(self, state: int, tokens: Tokens) -> None:
        """A state is here, the most recently used one."""
        self.add(state, tokens)
        while self.total > self._most_tokens or len(self) > MOST_STATES:
            self._forget(next(iter(self)))

    def _forget(self, state: int) -> None:
        self.drop(state)
        self._memory.append(Drop(state))
