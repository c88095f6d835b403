"""One line per finished request: counts and times, never content."""

import logging

from corral.books.record import Record

logger = logging.getLogger("corral.requests")


def log_settled(record: Record) -> None:
    """For the ledger's `on_settled`."""
    spent_s, wasted = record.spent_s, record.wasted
    logger.info(
        "%s outcome=%s api=%s stream=%d prompt_tokens=%d cached_tokens=%d completion_tokens=%d total_ms=%.1f "
        "queue_ms=%.1f prefill_ms=%.1f decode_ms=%.1f blocked_write_ms=%.1f ttft_ms=%s "
        "wasted_tokens=%d prefill_kept=%d",
        record.about.id,
        record.outcome,
        record.about.api,
        record.about.streams,
        record.prompt_tokens,
        record.cached_tokens or 0,
        record.completion_tokens,
        1e3 * record.total_s,
        1e3 * spent_s["queued"],
        1e3 * spent_s["prefill"],
        1e3 * spent_s["decode"],
        1e3 * spent_s["write"],
        "-" if record.ttft_s is None else f"{1e3 * record.ttft_s:.1f}",
        wasted.decoded_after_cancel + wasted.prefill_dropped,
        wasted.prefill_kept,
    )
