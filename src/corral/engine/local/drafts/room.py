"""How long the drafts of one step may be: as long as gives the most tokens for the step's time. Pure.

Drafts make a step wider, and all lanes of the step wait for that. So they are weighed against what the step
would give without them: more tokens, as far as they are likely to be right, for more time. Of the lanes that
could draft, the surest are taken, as many and at such a common length as use the step best. Only such sizes
of a step are looked at as the costs know: kernels compute whole tiles of rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from corral.engine.local.costs import Costs
from corral.engine.local.lane import Lane

BESIDE_OTHERS = 1.05
"""What a step with drafts must at least give, by what it gives without them, where others wait for it too:
how likely a guess is right is a guess itself."""
MOST_OFFERS = 16  # that are weighed; the others are less likely to be right


@dataclass(frozen=True, slots=True)
class Offer:
    """At most `limit` tokens can be drafted for a lane, each right with `chance` if all before it are."""

    lane: Lane
    chance: float
    limit: int


class DraftRoom:
    """The room of a decode step of so many lanes, each of which looks at `depth` cells."""

    def __init__(self, costs: Costs, *, lanes: int, depth: float, most_rows: int) -> None:
        self._costs = costs
        self._depth = depth
        self._most_rows = most_rows
        self._lanes = lanes
        self._rows = lanes
        self._tokens = float(lanes)
        self._extra_ms = 0.0
        self._rate = 0.0  # of the drafts that were taken

    @cached_property
    def step_ms(self) -> float:
        """The step without drafts."""
        return self._costs.step_ms(self._lanes, self._depth)

    @cached_property
    def _least_rate(self) -> float:
        """What a step with drafts must give."""
        rate = self._lanes / self.step_ms
        return rate if self._lanes == 1 else BESIDE_OTHERS * rate

    @cached_property
    def _sizes(self) -> list[tuple[int, float]]:
        """Rows the step may have, with its time."""
        sizes = self._costs.step_sizes(self._depth)
        return [(size, ms) for size, ms in sizes if self._rows < size <= self._most_rows]

    def fits(self, chance: float, lanes: int) -> bool:
        """Whether any drafts for so many lanes could pay, if they are right with `chance`."""
        return any(
            (self._tokens + lanes * gain(chance, (size - self._rows) // lanes)) / ms > self._least_rate
            for size, ms in self._sizes
        )

    def share(self, offers: Iterable[Offer], guess_ms: float = 0.0) -> dict[Lane, int]:
        """How many tokens to draft for whom; they are taken. Guessing one for each lane takes `guess_ms`."""
        ranked = sorted(offers, key=lambda offer: -offer.chance)[:MOST_OFFERS]
        best_rate = max(self._rate, self._least_rate)
        best = 0, 0, self._tokens, 0.0
        for size, ms in self._sizes:
            for lanes in _counts(len(ranked)):
                length = (size - self._rows) // lanes
                if length <= 0:
                    break
                tokens = self._tokens
                for offer in ranked[:lanes]:
                    tokens += gain(offer.chance, min(length, offer.limit))
                guessed_ms = length * guess_ms
                rate = tokens / (ms + self._extra_ms + guessed_ms)
                if rate > best_rate:
                    best_rate = rate
                    best = lanes, length, tokens, guessed_ms
        lanes, length, self._tokens, guessed_ms = best
        if not lanes:
            return {}
        self._extra_ms += guessed_ms
        self._rate = best_rate
        lengths = {offer.lane: min(length, offer.limit) for offer in ranked[:lanes]}
        self._rows += sum(lengths.values())
        return lengths


def gain(chance: float, drafted: int) -> float:
    """Tokens of a draft that are right, to be expected."""
    return chance * (1 - chance**drafted) / (1 - chance)


def _counts(most: int) -> list[int]:
    """1, 2, 4, ... and `most` itself, which is at most MOST_OFFERS."""
    return [count for count in (1, 2, 4, 8) if count < most] + [most] * (most > 0)
