"""A few steps before the first request: it finds memory touched, and costs measured instead of guessed."""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final

from corral.engine.local.backend import Chunk
from corral.engine.local.costs import StepTime

BUDGET_S: Final = 0.25
DECODE_SHARE: Final = 0.25  # of the budget
DECODE_ROWS: Final = (2, 4, 8)
PREFILL_TOKENS: Final = (16, 64, 128, 256, 512)


class Rehearsal:
    """Times steps that carry one `token` again and again, on an empty cache.

    `compute` is the backend's step, `forget` empties a sequence.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Chunk]], None],
        forget: Callable[[int], None],
        token: int,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._compute = compute
        self._forget = forget
        self._token = token
        self._clock = clock
        self._times: list[StepTime] = []

    def run(self, *, most_rows: int, most_tokens: int, budget_s: float = BUDGET_S) -> list[StepTime]:
        """What decode steps of up to `most_rows` take, and prefills of up to `most_tokens`.

        They get larger as long as the next may be expected to fit into what is left of the budget: so many
        times the tokens take so many times as long, at most. One step of one row is always computed. The
        cache is empty afterwards. Raises what `compute` raises.
        """
        row_s = self._decode(1)
        left_s = (1 - DECODE_SHARE) * budget_s
        left_s += self._grow(self._decode, DECODE_ROWS, most_rows, row_s, DECODE_SHARE * budget_s - row_s)
        self._grow(self._prefill, PREFILL_TOKENS, most_tokens, row_s, left_s)
        return self._times

    def _grow(
        self, step: Callable[[int], float], sizes: Sequence[int], most: int, elapsed_s: float, left_s: float
    ) -> float:
        """Larger and larger steps, after one of a token that took `elapsed_s`; what is left of the time."""
        last = 1
        for size in sizes:
            if size > most or elapsed_s * size / last > left_s:
                break
            elapsed_s, last = step(size), size
            left_s -= elapsed_s
        return left_s

    def _decode(self, rows: int) -> float:
        return self._timed(
            [Chunk(sequence, 0, [self._token], 1) for sequence in range(rows)], is_prefill=False
        )

    def _prefill(self, tokens: int) -> float:
        return self._timed([Chunk(0, 0, [self._token] * tokens, 1)], is_prefill=True)

    def _timed(self, chunks: Sequence[Chunk], *, is_prefill: bool) -> float:
        began_s = self._clock()
        self._compute(chunks)
        elapsed_s = self._clock() - began_s
        for chunk in chunks:
            self._forget(chunk.sequence)
        tokens = sum(len(chunk.tokens) for chunk in chunks)
        self._times.append(StepTime(tokens, is_prefill, 1e3 * elapsed_s))
        return elapsed_s
