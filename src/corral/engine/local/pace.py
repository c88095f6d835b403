"""How many prompt tokens a step may carry so that decoding streams keep their pace.

Pure: it is told how long each step took and answers with a budget. Costs are moving averages, since they
grow with the context and change with whatever else the machine does.

Between two decode steps a prefill step may take as long as `step_budget_ms`, or DECODE_SHARE times as long
as a decode step where that is more: a slow batch is slowed by the same factor as a fast one. While several
sequences wait for their first token it may take as many times longer, up to BURST: otherwise a burst of
prompts would crawl behind the first of them, decoding in small batches, and everybody would be late. For the
same reason several prompts that all fit into HOLD_MS are computed without a decode step between them, up to
the last one, which takes turns again.

With nothing decoding a step takes IDLE_STEP_MS. Longer ones are no faster on a CPU, and what a cancelled
prefill leaves behind is what its finished steps computed.
"""

from dataclasses import dataclass

SMOOTHING = 0.2
GRANULE_TOKENS = 16  # kernels work on tiles: budgets in between cost as much as the next one up
LEAST_TOKENS = 4  # deep in a context attention costs more than all kernels: 16 tokens at 2,000 take 100 ms
FIRST_GUESS_MS = 1.0  # per token, before anything was measured
DECODE_SHARE = 1.5
BURST = 4
HOLD_MS = 600.0
RECOVERY = 5.0  # ms of such a hold that each ms of decoding makes up for
IDLE_STEP_MS = 160.0
LEAST_IDLE_TOKENS = 64  # below it the weights are read more often than computed with


@dataclass(slots=True)
class Pace:
    """Budgets for prefill steps of at most `batch_tokens`."""

    step_budget_ms: float
    batch_tokens: int
    _token_ms: float = FIRST_GUESS_MS
    decode_ms: float = 0.0
    """How long a decode step takes."""
    _held_ms: float = 0.0

    def prefill_tokens(self, *, decoding: int, prefilling: int) -> int:
        """The budget of the next prefill step, in tokens, by how many sequences do what."""
        if not decoding:
            return max(LEAST_IDLE_TOKENS, self._tokens(IDLE_STEP_MS))
        burst = min(max(prefilling, 1), BURST)
        return self._tokens(max(self.step_budget_ms, DECODE_SHARE * self.decode_ms) * burst)

    def holds_decoding(self, *, prefilling: int, tokens: int) -> bool:
        """Whether decoding waits until several prompts, of `tokens` still to be computed, are done."""
        return prefilling > 1 and self._held_ms + tokens * self._token_ms <= HOLD_MS

    def _tokens(self, budget_ms: float) -> int:
        tokens = int(budget_ms / self._token_ms)
        granule = GRANULE_TOKENS if tokens >= GRANULE_TOKENS else LEAST_TOKENS
        return min(max(LEAST_TOKENS, tokens - tokens % granule), self.batch_tokens)

    def observe_prefill(self, tokens: int, elapsed_ms: float) -> None:
        """Learn from a prefill step."""
        self._held_ms += elapsed_ms
        self._token_ms += SMOOTHING * (max(1e-3, elapsed_ms / tokens) - self._token_ms)

    def observe_aborted(self, elapsed_ms: float) -> None:
        """A prefill step was cut short: nothing to learn from, but streams have waited for it."""
        self._held_ms += elapsed_ms

    def observe_decode(self, elapsed_ms: float) -> None:
        """Learn from a decode step."""
        self._held_ms = max(0.0, self._held_ms - RECOVERY * elapsed_ms)
        self.decode_ms += SMOOTHING * (elapsed_ms - self.decode_ms)
