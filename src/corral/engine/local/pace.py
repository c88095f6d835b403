"""Whose turn it is, and how much prefill a step may carry, so that decoding streams keep their pace.

Pure: it is told how long each step took, and asks the learned costs (costs.py) how long others would.

Between two decode steps a prefill step may take as long as `step_budget_ms`, or DECODE_SHARE times as long
as a decode step where that is more: a slow batch is slowed by the same factor as a fast one. While several
sequences wait for their first token it may take as many times longer, up to BURST: otherwise a burst of
prompts would crawl behind the first of them, decoding in small batches, and everybody would be late. For the
same reason several prompts that all fit into HOLD_MS are computed without a decode step between them, up to
the last one, which takes turns again.

With nothing decoding a step takes IDLE_STEP_MS, or longer where a token would cost more in a smaller one.
What a cancelled prefill leaves behind is what its finished steps computed, so steps are no larger than that.
"""

from dataclasses import dataclass, field

from corral.engine.local.costs import Costs

DECODE_SHARE = 1.5
BURST = 4
HOLD_MS = 600.0
RECOVERY = 5.0  # ms of such a hold that each ms of decoding makes up for
IDLE_STEP_MS = 160.0


@dataclass(frozen=True, slots=True)
class Load:
    """What waits for the next steps.

    So many sequences are `decoding`, each of which looks at `decode_depth` cells; so many are `prefilling`,
    with `prefill_tokens` still to be computed, unless they are found in the cache, behind `prefill_depth`.
    """

    decoding: int
    prefilling: int
    prefill_tokens: int
    decode_depth: float = 0.0
    prefill_depth: float = 0.0


@dataclass(slots=True)
class Pace:
    """Budgets for prefill steps of at most `batch_tokens`."""

    step_budget_ms: float
    batch_tokens: int
    costs: Costs = field(default_factory=Costs)
    _held_ms: float = 0.0

    def prefill_tokens(self, load: Load) -> int:
        """The budget of the next prefill step, in tokens."""
        if not load.decoding:
            least = self.costs.full_speed_tokens(self.batch_tokens)
            return max(least, self._tokens(IDLE_STEP_MS, load))
        burst = min(max(load.prefilling, 1), BURST)
        return self._tokens(self.budget_ms(load) * burst, load)

    def budget_ms(self, load: Load) -> float:
        """How long who decodes may have to wait between two steps."""
        decode_ms = self.costs.step_ms(load.decoding, load.decode_depth)
        return max(self.step_budget_ms, DECODE_SHARE * decode_ms)

    def prefill_first(self, load: Load) -> bool:
        """Whether decoding waits until the prompts of a burst are done, but for the last."""
        if load.prefilling < 2:
            return False
        return self._held_ms + self.costs.prefill_ms(load.prefill_tokens, load.prefill_depth) <= HOLD_MS

    def _tokens(self, budget_ms: float, load: Load) -> int:
        return self.costs.prefill_tokens(budget_ms, load.prefill_depth, self.batch_tokens)

    def observe_prefill(self, tokens: int, depth: float, elapsed_ms: float) -> None:
        """Learn from a prefill step."""
        self._held_ms += elapsed_ms
        self.costs.observe_prefill(tokens, depth, elapsed_ms)

    def observe_aborted(self, elapsed_ms: float) -> None:
        """A prefill step was cut short: nothing to learn from, but streams have waited for it."""
        self._held_ms += elapsed_ms

    def observe_decode(self, rows: int, depth: float, elapsed_ms: float) -> None:
        """Learn from a decode step."""
        self._held_ms = max(0.0, self._held_ms - RECOVERY * elapsed_ms)
        self.costs.observe_step(rows, depth, elapsed_ms)
