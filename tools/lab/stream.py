"""A request in the laboratory: its lane, what it says, and when."""

import random
from dataclasses import dataclass, field

from corral.engine.local.lane import Lane
from tools.lab.loads import Ask

REPETITION_ENDS = 0.1
"""How likely a text that repeats itself ceases to, at each token."""
NEW_TOKEN_BITS = 30
TEMPLATE_TOKENS = 3


@dataclass(slots=True, eq=False)
class Stream:
    """Somebody who generates, from its prompt to the end of its answer.

    Of its tokens, about a share of `repeats` goes on as the text did before, which is what prompt lookup
    guesses; all others never occurred before.
    """

    key: int
    ask: Ask
    chance: random.Random
    repeats: float = 0.0
    began_s: float | None = None
    """When it got its slot."""
    said_s: list[float] = field(default_factory=list)
    """When a step said something of its answer, if that was only one token."""
    said_tokens: int = 0
    _lane: Lane | None = None
    _place: int | None = None

    @property
    def lane(self) -> Lane:
        assert self._lane is not None, "it has not begun"
        return self._lane

    def begin(self, lane: Lane, now_s: float) -> None:
        """It has a slot."""
        self._lane, self.began_s = lane, now_s

    @property
    def tokens_left(self) -> int:
        return self.ask.answer_tokens - self.said_tokens

    @property
    def can_be_forced(self) -> bool:
        return False

    def fitting(self, draft: list[int]) -> list[int]:
        return draft

    def prompt(self) -> list[int]:
        """A template's beginning, as everybody's, and then tokens that nobody else has."""
        own = max(1, self.ask.prompt_tokens - TEMPLATE_TOKENS)
        shared = range(self.ask.prompt_tokens - own)
        return [*shared, *(self.chance.getrandbits(NEW_TOKEN_BITS) for _ in range(own))]

    def next_token(self) -> int:
        """Say one more token; the last one does not go on."""
        tokens = self.lane.tokens
        if self._place is not None and self.chance.random() < REPETITION_ENDS:
            self._place = None
        elif self._place is None and self.repeats and self.chance.random() < self._begins:
            self._place = self.chance.randrange(len(tokens))
        if self._place is None:
            token = self.chance.getrandbits(NEW_TOKEN_BITS)
        else:
            token = tokens[self._place]
            self._place += 1
        self.said_tokens += 1
        if self.tokens_left:
            tokens.append(token)
        return token

    @property
    def _begins(self) -> float:
        """How likely it begins to repeat itself, to do so for its share of the time."""
        return REPETITION_ENDS * self.repeats / (1 - self.repeats)
