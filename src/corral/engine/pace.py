"""How many prompt tokens a step may carry so that decoding streams keep their pace.

Pure: it is told how long each prefill step took and answers with a budget. The cost per token is a moving
average, since it grows with the context and changes with whatever else the machine does.
"""

from dataclasses import dataclass

SMOOTHING = 0.2
GRANULE_TOKENS = 16  # kernels work on tiles: budgets in between cost as much as the next one up
FIRST_GUESS_MS = 1.0  # per token, before anything was measured


@dataclass(slots=True)
class Pace:
    """`step_budget_ms` of prefill between two decode steps, `idle_tokens` when nothing decodes."""

    step_budget_ms: float
    idle_tokens: int
    _token_ms: float = FIRST_GUESS_MS

    def prefill_tokens(self, *, has_decoding: bool) -> int:
        """The budget of the next prefill step, in tokens."""
        if not has_decoding:
            return self.idle_tokens
        tokens = int(self.step_budget_ms / self._token_ms)
        return min(max(GRANULE_TOKENS, tokens - tokens % GRANULE_TOKENS), self.idle_tokens)

    def observe(self, prefill_tokens: int, elapsed_ms: float) -> None:
        """Learn from a step of nothing but prefill."""
        self._token_ms += SMOOTHING * (max(1e-3, elapsed_ms / prefill_tokens) - self._token_ms)
