"""One line per finished request, and one per refused one: counts and times, never content."""

import logging

from corral.books.ledger import Refusal
from corral.books.record import Record

logger = logging.getLogger("corral.requests")


def log_settled(record: Record) -> None:
    """For the ledger's `on_settled`."""
    life, counts, wasted = record.life, record.counts, record.wasted
    spent_s = life.spent_s()
    logger.info(
        "%s request_id=%s outcome=%s api=%s stream=%d prompt_tokens=%d cached_tokens=%d "
        "completion_tokens=%d reasoning_tokens=%d calls=%d "
        "total_ms=%.1f preparing_ms=%.1f queue_ms=%.1f prefill_ms=%.1f decode_ms=%.1f "
        "blocked_write_ms=%.1f ttft_ms=%s wasted_tokens=%d prefill_kept=%d error=%s param=%r",
        record.about.id,
        record.about.request_id or "-",
        record.outcome,
        record.about.api,
        record.about.streams,
        record.prompt_tokens,
        counts.cached_tokens or 0,
        counts.completion_tokens,
        counts.reasoning_tokens,
        counts.calls,
        1e3 * life.total_s,
        1e3 * spent_s["preparing"],
        1e3 * spent_s["queued"],
        1e3 * spent_s["prefill"],
        1e3 * spent_s["decode"],
        1e3 * spent_s["write"],
        "-" if life.ttft_s is None else f"{1e3 * life.ttft_s:.1f}",
        wasted.decoded_after_cancel + wasted.prefill_dropped,
        wasted.prefill_kept,
        record.error or "-",
        record.param and record.param[:200],
    )


def log_refused(refusal: Refusal) -> None:
    """For the ledger's `on_refused`. A path and a field's name come from outside, so they are quoted."""
    logger.info(
        "%s refused status=%d code=%s client=%s method=%s path=%r param=%r",
        refusal.id,
        refusal.status,
        refusal.code,
        refusal.address,
        refusal.method,
        refusal.path[:200],
        refusal.param and refusal.param[:200],
    )
