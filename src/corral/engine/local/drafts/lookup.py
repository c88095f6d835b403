"""Guesses of what comes next, to be verified in the step that would have produced one token.

Prompt lookup (Saxena 2023): where the last few tokens occurred before, what followed then may follow now.
It costs nothing to guess, but a wrong guess costs a wider step (STEP_COSTS). So a draft is as long as gives
the most tokens for its cost, if each is right with the chance that is learned from the sequence's own drafts.
Where they fail it falls until only a long match is followed any more. What is guessed is only ever compared
with what the sampler picks, so it never changes what is said.
"""

from collections import deque
from collections.abc import Sequence

KEY_TOKENS = 3  # tokens that must match before a place is looked at
PLACES = 8  # the last places of a key that are compared
LONG_MATCH_TOKENS = 8  # such a match is right more often,
LONG_MATCH_FAILURE = 0.6  # by so much less often wrong
MOST_MATCH_TOKENS = 32
LONGEST_DRAFT_TOKENS = 15
STEP_COSTS = {1: 1.0, 2: 1.5, 3: 2.0, 4: 2.4, 8: 3.7, 12: 5.1, 16: 5.9}
"""A step of so many rows by one of a single row, measured with SmolLM2-135M on 2 cores. Kernels take four
rows at a time: with 6 or 7 a step takes as long as with 8."""
FIRST_CHANCE, LEAST_CHANCE, BEST_CHANCE = 0.85, 0.2, 0.97
RIGHT_WEIGHT, WRONG_WEIGHT = 0.15, 0.1  # of one token, in the moving average of the chance


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
        length = _best_length(min(chance, BEST_CHANCE), limit)
        draft = list(tokens[place : place + length])
        while len(draft) < length:  # a text that repeats itself goes on as the draft began
            draft += draft[: length - len(draft)]
        return draft

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


def _best_length(chance: float, longest: int) -> int:
    """Tokens to draft, at most `longest`, if each is right with `chance` where all before it are; 0 to 15."""

    def tokens_per_cost(rows: int) -> float:
        return (1 - chance**rows) / (1 - chance) / STEP_COSTS[rows]

    return max((rows for rows in STEP_COSTS if rows <= longest + 1), key=tokens_per_cost) - 1


def draft_budget(decoding: int) -> int:
    """Tokens that all drafts of a step may have together, beside `decoding` sequences.

    The cost of a step grows with every token, and all sequences pay it; from eight on there is no draft.
    """
    return max(0, LONGEST_DRAFT_TOKENS + 2 - 2 * decoding) if decoding < 8 else 0
