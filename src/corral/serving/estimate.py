"""How long a request in line will wait: what runs now, played forward over the slots. Pure, no clock.

    left of a sequence = prompt tokens left / prefill speed + expected tokens left / decode speed

A slot falls free when its sequence is done; who waits takes the slots in order, each for as long as it is
expected to take itself. How much an answer has left is expected from the lengths of whole answers before
it that were longer than what it has said already. Where none was, or too few answers are known, it is
what it may still say; and where it may say anything at all, there is no estimate, for it and for all
behind it.

Service time only: what earlier requests waited themselves, and those that were cut short, say nothing here.
"""

import heapq
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

KEPT_LENGTHS = 64
"""Fewer follow a change sooner, more are surer of what does not change (docs/benchmarks.md, "Waits")."""
FEWEST_LENGTHS = 10
"""So many whole answers must be known before their lengths say anything."""


@dataclass(frozen=True, slots=True)
class Work:
    """A sequence that runs, or will. `prefill_tokens` are still to be computed, `said_tokens` have been said.

    It may say `max_tokens` in all; `is_limited` says that its client named that number. One that `embeds`
    computes vectors of texts, and says nothing.
    """

    prefill_tokens: int
    said_tokens: int
    max_tokens: int
    is_limited: bool
    embeds: bool = False


@dataclass(frozen=True, slots=True)
class Speeds:
    """Tokens per second of one sequence, beside as many others as there are slots."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    embed_tokens_per_s: float


@dataclass(slots=True)
class Lengths:
    """How long whole answers were, in tokens; the last KEPT_LENGTHS of them."""

    _recent: deque[int] = field(default_factory=deque)
    _sorted: list[int] = field(default_factory=list)

    def add(self, tokens: int) -> None:
        """An answer that its model ended, or its own limit."""
        self._recent.append(tokens)
        insort(self._sorted, tokens)
        if len(self._recent) > KEPT_LENGTHS:
            oldest = self._recent.popleft()
            del self._sorted[bisect_right(self._sorted, oldest) - 1]

    def left(self, work: Work) -> float | None:
        """Tokens that it is expected to say yet; None if nothing can be said of it."""
        limit = work.max_tokens - work.said_tokens
        if len(self._sorted) < FEWEST_LENGTHS:
            return float(limit) if work.is_limited else None
        longer = self._sorted[bisect_right(self._sorted, work.said_tokens) :]
        if not longer:
            return float(limit)
        # Few were as long as that, and they may all have ended right after: so one more is taken to go on for
        # as long as answers are in the mean.
        mean = sum(self._sorted) / len(self._sorted)
        left = sum(min(length, work.max_tokens) - work.said_tokens for length in longer)
        return min(limit, (left + mean) / (len(longer) + 1))


def waits_s(
    running: Iterable[Work], waiting: Sequence[Sequence[Work]], slots: int, lengths: Lengths, speeds: Speeds
) -> list[float | None]:
    """How long each of those in line will wait, in seconds, in their order; None where that cannot be said.

    A request in line has a Work per sequence, and takes that many slots at once.
    """
    ends_s: list[float] = []
    for work in running:
        lasts_s = _lasts_s(work, lengths, speeds)
        ends_s.append(float("inf") if lasts_s is None else lasts_s)
    ends_s += [0.0] * (slots - len(ends_s))
    heapq.heapify(ends_s)
    waits: list[float | None] = []
    for request in waiting:
        taken = [heapq.heappop(ends_s) for _ in range(min(len(request), len(ends_s)))]
        begins_s = taken[-1] if taken else float("inf")
        waits.append(begins_s if begins_s < float("inf") else None)
        for work in request[: len(taken)]:
            lasts_s = _lasts_s(work, lengths, speeds)
            heapq.heappush(ends_s, float("inf") if lasts_s is None else begins_s + lasts_s)
    return waits


def _lasts_s(work: Work, lengths: Lengths, speeds: Speeds) -> float | None:
    left = lengths.left(work)
    if left is None:
        return None
    prefill_s = work.prefill_tokens / (
        speeds.embed_tokens_per_s if work.embeds else speeds.prefill_tokens_per_s
    )
    return prefill_s + max(0.0, left) / speeds.decode_tokens_per_s
