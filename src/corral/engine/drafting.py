"""Guesses of what comes next, to be verified in the step that would have produced one token.

Prompt lookup (Saxena 2023): where the last few tokens occurred before, what followed then may follow now.
It costs nothing to guess, but a wrong guess costs a wider step: with SmolLM2-135M on 2 cores a step of one
token takes 5.6 ms and a step of eight 21. So a sequence has to earn it: a guess is made only after a
match of several tokens, more of them after every failure, and its length grows with success. What is
guessed is only ever compared with what the sampler picks, so it never changes what is said.
"""

from collections.abc import Sequence

KEY_TOKENS = 3  # tokens that must match before a place is looked at at all
FIRST_MATCH_TOKENS = 5
LAST_MATCH_TOKENS = 24
FIRST_DRAFT_TOKENS = 4
LONGEST_DRAFT_TOKENS = 15


class PromptLookup:
    """Drafts for one sequence. `tokens` is the caller's list, which only grows between calls."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self._ends: dict[tuple[int, ...], int] = {}
        """Where each run of KEY_TOKENS tokens last ended, but for the newest."""
        self._indexed = KEY_TOKENS
        self._match_tokens = FIRST_MATCH_TOKENS
        self._draft_tokens = FIRST_DRAFT_TOKENS

    def propose(self, limit: int) -> list[int]:
        """At most `limit` tokens that may come next; often none."""
        tokens, size = self._tokens, len(self._tokens)
        for end in range(self._indexed, size):
            self._ends[tuple(tokens[end - KEY_TOKENS : end])] = end
        self._indexed = max(self._indexed, size)
        place = self._ends.get(tuple(tokens[-KEY_TOKENS:]))
        if place is None or not self._matches(place):
            return []
        return list(tokens[place : place + min(limit, self._draft_tokens)])

    def observe(self, drafted: int, accepted: int) -> None:
        """Learn from how many of a draft's tokens were right."""
        if accepted == drafted:
            self._draft_tokens = min(2 * self._draft_tokens, LONGEST_DRAFT_TOKENS)
        else:
            self._draft_tokens = max(2, accepted + 1)
        if 2 * accepted >= drafted:
            self._match_tokens = KEY_TOKENS
        elif accepted == 0:
            self._match_tokens = min(2 * self._match_tokens, LAST_MATCH_TOKENS)

    def _matches(self, place: int) -> bool:
        """Whether enough tokens before `place` are the sequence's last ones."""
        tokens, wanted = self._tokens, self._match_tokens
        return place >= wanted and tokens[place - wanted : place] == tokens[-wanted:]


def draft_budget(decoding: int) -> int:
    """Tokens that all drafts of a step may have together, beside `decoding` sequences.

    The cost of a step grows with every token, and all sequences pay it; from eight on there is no draft.
    """
    return max(0, LONGEST_DRAFT_TOKENS + 1 - 2 * decoding)
