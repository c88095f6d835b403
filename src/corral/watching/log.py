"""One line per finished request, and one per refused one: counts and times, never content.

The fields of a line are its `fields` too, for a log that is read by programs (`--log-format json`).
"""

import logging
from typing import Any

from corral.books.ledger import Refusal
from corral.books.record import Record

logger = logging.getLogger("corral.requests")

NAME_CHARS = 200
"""Of a path or a field's name, which come from outside."""


def log_settled(record: Record) -> None:
    """For the ledger's `on_settled`."""
    about, life, counts, wasted = record.about, record.life, record.counts, record.wasted
    spent_s = life.spent_s()
    _log(
        about.id,
        "",
        {
            "request_id": about.request_id or None,
            "outcome": record.outcome,
            "status": record.status,
            "api": about.api,
            "model": _named(about.model),
            "client": about.address or None,
            "session": about.session or None,
            "stream": about.streams,
            "continued_on": record.continued_on,
            "max_tokens": record.max_tokens,
            "prompt_tokens": record.prompt_tokens,
            "cached_tokens": counts.cached_tokens or 0,
            "completion_tokens": counts.completion_tokens,
            "reasoning_tokens": counts.reasoning_tokens,
            "calls": counts.calls,
            "total_ms": _ms(life.total_s),
            "preparing_ms": _ms(spent_s["preparing"]),
            "queue_ms": _ms(spent_s["queued"]),
            "prefill_ms": _ms(spent_s["prefill"]),
            "decode_ms": _ms(spent_s["decode"]),
            "blocked_write_ms": _ms(spent_s["write"]),
            "ttft_ms": None if life.ttft_s is None else _ms(life.ttft_s),
            "wasted_tokens": wasted.decoded_after_cancel + wasted.prefill_dropped + wasted.thrown_away,
            "prefill_kept": wasted.prefill_kept,
            "error": record.error,
            "param": _named(record.param),
        },
    )


def log_refused(refusal: Refusal) -> None:
    """For the ledger's `on_refused`."""
    _log(
        refusal.id,
        "refused",
        {
            "status": refusal.status,
            "code": refusal.code,
            "client": refusal.address or None,
            "method": refusal.method,
            "path": _named(refusal.path),
            "param": _named(refusal.param),
        },
    )


class _Named(str):
    """What came from outside as it is, so it is quoted where a line is text."""

    __slots__ = ()


def _named(text: str | None) -> _Named | None:
    return None if text is None else _Named(text[:NAME_CHARS])


def _log(id: str, what: str, fields: dict[str, Any]) -> None:
    if not logger.isEnabledFor(logging.INFO):
        return
    words = [id, what] if what else [id]
    words += [f"{name}={_shown(value)}" for name, value in fields.items()]
    logger.info("%s", " ".join(words), extra={"fields": {"id": id, "event": what or "ended", **fields}})


def _shown(value: object) -> str:
    """One word, whatever it is."""
    match value:
        case None:
            return "-"
        case bool():
            return str(int(value))
        case _Named():
            return repr(str(value))
        case str() if " " in value:
            return repr(value)
        case _:
            return str(value)


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 1)
