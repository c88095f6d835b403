"""Guesses of what comes next, to be verified in the step that would have produced one token.

Prompt lookup (Saxena 2023): where the last few tokens occurred before, what followed then may follow now.
It costs nothing to guess, but a wrong guess costs a wider step: with SmolLM2-135M on 2 cores a step of one
token takes 5.6 ms and every further one 2.2. So a draft is as long as it pays: a token is worth its place
while the chance that all before it and it are right is above ROW_COST. That chance is learned from the
sequence's own drafts; where they fail it falls until only a long match is followed any more. What is guessed
is only ever compared with what the sampler picks, so it never changes what is said.
"""

import math
from collections import deque
from collections.abc import Sequence

KEY_TOKENS = 3  # tokens that must match before a place is looked at
PLACES = 8  # the last places of a key that are compared
LONG_MATCH_TOKENS = 8  # such a match is right more often,
LONG_MATCH_FAILURE = 0.6  # by so much less often wrong
MOST_MATCH_TOKENS = 32
LONGEST_DRAFT_TOKENS = 15
ROW_COST = 0.3  # of a token more in a step, by that of a step of one
FIRST_CHANCE, LEAST_CHANCE, BEST_CHANCE = 0.75, 0.2, 0.97
RIGHT_WEIGHT, WRONG_WEIGHT = 0.06, 0.2  # of one token, in the moving average of the chance


class PromptLookup:
    """Drafts for one sequence. `tokens` is the caller's list, which only grows between calls."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self._ends: dict[tuple[int, ...], deque[int]] = {}
        """Where each run of KEY_TOKENS tokens ended, but for the newest."""
        self._indexed = KEY_TOKENS
        self._chance = FIRST_CHANCE
        """That a drafted token is right if all before it are."""

    def propose(self, limit: int) -> list[int]:
        """At most `limit` tokens that may come next; often none."""
        self._index()
        tokens = self._tokens
        places = self._ends.get(tuple(tokens[-KEY_TOKENS:]), ())
        best, place = max(((self._match(place), place) for place in places), default=(0, 0))
        if not best:
            return []
        chance = self._chance
        if best >= LONG_MATCH_TOKENS:
            chance = 1 - LONG_MATCH_FAILURE * (1 - chance)
        length = int(math.log(ROW_COST) / math.log(min(chance, BEST_CHANCE)))
        return list(tokens[place : place + min(limit, length, LONGEST_DRAFT_TOKENS)])

    def observe(self, drafted: int, accepted: int) -> None:
        """Learn from how many of a draft's tokens were right."""
        for _ in range(accepted):
            self._chance += RIGHT_WEIGHT * (1 - self._chance)
        if accepted < drafted:
            self._chance = max(LEAST_CHANCE, (1 - WRONG_WEIGHT) * self._chance)

    def _index(self) -> None:
        tokens, size = self._tokens, len(self._tokens)
        for end in range(self._indexed, size):
            key = tuple(tokens[end - KEY_TOKENS : end])
            self._ends.setdefault(key, deque(maxlen=PLACES)).append(end)
        self._indexed = max(self._indexed, size)

    def _match(self, place: int) -> int:
        """How many tokens before `place` are the sequence's last ones."""
        tokens, size = self._tokens, len(self._tokens)
        length = KEY_TOKENS
        while (
            length < min(MOST_MATCH_TOKENS, place) and tokens[place - length - 1] == tokens[size - length - 1]
        ):
            length += 1
        return length


def draft_budget(decoding: int) -> int:
    """Tokens that all drafts of a step may have together, beside `decoding` sequences.

    The cost of a step grows with every token, and all sequences pay it; from eight on there is no draft.
    """
    return max(0, LONGEST_DRAFT_TOKENS + 1 - 2 * decoding)
