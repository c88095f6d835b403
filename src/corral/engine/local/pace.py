"""Whose turn it is, and how much prefill a step may carry, so that decoding streams keep their pace.

Pure: it is told how long each step took, and asks the learned costs (costs.py) how long others would.

A promise to those who stream has two figures (Promise): the longest that they wait between two tokens while
prompts are computed, and the least share of the time that goes to decoding, which is how often they may have
to wait so long. Within it prompts come first: a prompt that is done sooner decodes sooner, beside the others,
in steps that cost hardly more for it; and the larger its chunks, the less a token of it costs. A machine on
which a decode step itself takes long is not bound by the first figure alone: there prompts may take as long
as DECODE_SHARE decode steps, or they would never be done. Nor is one whose attention in small steps is so
slow that those are hardly quicker than wide ones (WIDE_TOKENS in costs.py), deep in a context.

With nothing decoding a step takes IDLE_STEP_MS, or longer where a token would cost more in a smaller one.
What a cancelled prefill leaves behind is what its finished steps computed, so steps are no larger than that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from corral.engine.local.costs import Costs

PaceName = Literal["smooth", "balanced", "throughput"]


@dataclass(frozen=True, slots=True)
class Promise:
    """A stream's tokens lie `gap_ms` apart at most, and at least `decode_share` of the time is for them."""

    gap_ms: float
    decode_share: float


PROMISES: Final[Mapping[PaceName, Promise]] = {
    "smooth": Promise(gap_ms=100.0, decode_share=1 / 3),
    "balanced": Promise(gap_ms=250.0, decode_share=1 / 10),
    "throughput": Promise(gap_ms=1000.0, decode_share=1 / 50),
}

DECODE_SHARE = 1.5
IDLE_STEP_MS = 160.0
MOST_SLIP = 1.5  # one step that something else disturbed makes no difference for long
SLIP_SMOOTHING = 0.3
WORTHWHILE = 0.5
"""What is left of a gap is used for another chunk only if it is so much of the whole."""
MOST_EXTRA = 2
"""Decode steps beyond those that are owed, so that nobody waits for the next prompt with half a character."""


@dataclass(frozen=True, slots=True)
class Load:
    """What waits for the next steps.

    So many sequences are `decoding`, each of which looks at `decode_depth` cells; so many are `prefilling`,
    with `prefill_tokens` still to be computed, unless they are found in the cache; the first of them has
    `prefill_depth` behind it. `has_begun_prompts`: some of these are in the cache already. `owes_text`: the
    last token of somebody who decodes was only part of a character.
    """

    decoding: int
    prefilling: int
    prefill_tokens: int
    decode_depth: float = 0.0
    prefill_depth: float = 0.0
    has_begun_prompts: bool = False
    owes_text: bool = False


@dataclass(slots=True)
class Pace:
    """Budgets for prefill steps of at most `batch_tokens`."""

    promise: Promise
    batch_tokens: int
    costs: Costs = field(default_factory=Costs)
    _waited_ms: float = 0.0
    """How long those who decode have been waiting for prompts since their last step."""
    _owed_ms: float = 0.0
    """How long they may decode before the next prompt's turn."""
    _extra: int = 0
    """Decode steps since the last prompt's, beyond those that were owed."""
    _slip: float = 1.0
    """How many times as long as expected prompts' steps took lately, at least 1: as much shorter are gaps
    planned."""

    def prefill_tokens(self, load: Load) -> int:
        """The budget of the next step for prompts, in tokens; 0 where it is to be a decode step."""
        if not load.decoding:
            self._waited_ms = self._owed_ms = 0.0
            return max(self.full_speed_tokens, self._tokens(IDLE_STEP_MS, load))
        if not self._waited_ms and (self._owed_ms > 0 or (load.owes_text and self._extra < MOST_EXTRA)):
            return 0
        budget_ms = self.budget_ms(load)
        left_ms = budget_ms - self._waited_ms
        if self._waited_ms and left_ms < WORTHWHILE * budget_ms:
            return 0
        return self._tokens(left_ms, load)

    @property
    def full_speed_tokens(self) -> int:
        """The least chunk of a prompt in which a token costs hardly more than in any other."""
        return self.costs.full_speed_tokens(self.batch_tokens)

    def budget_ms(self, load: Load) -> float:
        """How long who decodes may have to wait between two steps, beside the second of these."""
        decode_ms = self.costs.step_ms(load.decoding, load.decode_depth)
        return max(self.promise.gap_ms - decode_ms, DECODE_SHARE * decode_ms) / self._slip

    def _tokens(self, budget_ms: float, load: Load) -> int:
        return self.costs.prefill_tokens(budget_ms, load.prefill_depth, self.batch_tokens)

    def observe_prefill(self, tokens: int, depth: float, elapsed_ms: float) -> None:
        """Learn from a prefill step."""
        slip = min(max(elapsed_ms / self.costs.prefill_ms(tokens, depth), 1.0), MOST_SLIP)
        self._slip += SLIP_SMOOTHING * (slip - self._slip)
        self.observe_aborted(elapsed_ms)
        self.costs.observe_prefill(tokens, depth, elapsed_ms)

    def observe_aborted(self, elapsed_ms: float) -> None:
        """A prefill step was cut short: nothing to learn from, but streams have waited for it."""
        share = self.promise.decode_share
        self._extra = 0
        self._waited_ms += elapsed_ms
        self._owed_ms += elapsed_ms * share / (1 - share)

    def observe_decode(self, rows: int, depth: float, elapsed_ms: float) -> None:
        """Learn from a decode step."""
        self._waited_ms = 0.0
        self._extra += self._owed_ms <= 0
        self._owed_ms = max(0.0, self._owed_ms - elapsed_ms)
        self.costs.observe_step(rows, depth, elapsed_ms)
