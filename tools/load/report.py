"""What a load test found, as data and as a sheet. Pure."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from tools.clients.sse import Answer
from tools.load.scenarios import Record, Tally
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, number
from tools.sheets.summary import Summary, gaps, summarize

DEFINITIONS = """\
TTFT: last byte of the request sent to the first delta with text. inter-token: between deltas of one stream.
  Both of polite clients alone, and so are tokens/s (of the whole run). n: how many were measured."""
CANCEL_DEFINITION = """
time to cancel: clients left until a one-token follow-up was answered, minus its idle"""


class Point(msgspec.Struct, frozen=True):
    """One answered request on the time line of the chart."""

    at_s: float
    ttft_ms: float
    worst_gap_ms: float


class Report(msgspec.Struct, frozen=True):
    """The figures of one run. Only polite clients count for latency and throughput."""

    scenario: str
    took_s: float
    interrupted: bool
    started: int
    whole: int
    unfinished: int
    output_tokens: int
    tokens_s: float
    requests_s: float
    ttft_ms: Summary
    inter_token_ms: Summary
    cancel_ms: dict[str, Summary]
    idle_answer_ms: float | None
    evicted: int
    eviction_s: Summary
    endings: dict[str, int]
    errors: dict[str, int]
    status_events: int
    status_events_s: float
    status_gap_ms: Summary
    points: list[Point] = []

    @property
    def all_cancels_p95_ms(self) -> float | None:
        """The worst cell's p95."""
        worst = [summary.p95 for summary in self.cancel_ms.values() if summary.p95 is not None]
        return max(worst, default=None)

    @property
    def error_count(self) -> int:
        return sum(self.errors.values())


def error_kind(record: Record) -> str | None:
    """What went wrong for one client, in few words; None if nothing did.

    A client that left on purpose and a staller that was evicted are no errors. A staller that was not evicted
    is one, and so is any answer that was not whole.
    """
    answer = record.answer
    if answer.violations:
        return f"broken stream: {answer.violations[0]}"
    if answer.ending == "refused":
        return f"refused {answer.status}"
    if answer.ending == "failed":
        return f"failed: {answer.error[:80]}"
    if record.kind == "slow":
        return "stalled reader was never evicted" if answer.ending == "left" else None
    if answer.ending == "cut":
        return f"cut: {answer.error}"
    if answer.ending == "done" and record.kind == "chat" and answer.finish_reason is None:
        return "ended without a finish reason"
    return None


def build(tally: Tally, scenario: str, now_s: float, *, interrupted: bool = False) -> Report:
    """The report of what was seen until `now_s`. Pure."""
    took_s = max(now_s - tally.started_s, 1e-9)
    polite = [record.answer for record in tally.records if record.kind == "chat"]
    whole = [answer for answer in polite if answer.is_whole]
    stalled = [record.answer for record in tally.records if record.kind == "slow"]
    evicted = [answer for answer in stalled if answer.ending in ("evicted", "cut") and answer.content_s]
    tokens = sum(answer.completion_tokens for answer in polite)
    kinds = Counter(kind for record in tally.records if (kind := error_kind(record)) is not None)
    return Report(
        scenario=scenario,
        took_s=round(took_s, 3),
        interrupted=interrupted,
        started=tally.started,
        whole=len(whole),
        unfinished=tally.unfinished,
        output_tokens=tokens,
        tokens_s=round(tokens / took_s, 2),
        requests_s=round(len(whole) / took_s, 3),
        ttft_ms=summarize([a.ttft_s for a in polite if a.ttft_s is not None], scale=1e3),
        inter_token_ms=summarize([gap for a in polite for gap in gaps(a.content_s)], scale=1e3),
        cancel_ms={cell: summarize(seconds, scale=1e3) for cell, seconds in tally.cancel_s.items()},
        idle_answer_ms=None if tally.idle_s is None else round(tally.idle_s * 1e3, 2),
        evicted=len(evicted),
        eviction_s=summarize([(a.ended_s or now_s) - a.content_s[-1] for a in evicted]),
        endings=dict(Counter(f"{r.kind} {r.answer.ending}" for r in tally.records)),
        errors=dict(kinds.most_common()),
        status_events=tally.status_events,
        status_events_s=round(tally.status_events / took_s, 1),
        status_gap_ms=summarize(tally.status_gap_s, scale=1e3),
        points=[_point(answer, tally.started_s) for answer in whole if answer.content_s],
    )


def _point(answer: Answer, started_s: float) -> Point:
    worst = max(gaps(answer.content_s), default=0.0)
    ttft_s = answer.ttft_s or 0.0
    return Point(round(answer.sent_s - started_s, 3), round(ttft_s * 1e3, 2), round(worst * 1e3, 2))


def sheet_of(report: Report, goals: Sequence[Goal]) -> Sheet:
    """The report for people."""
    measured = [("TTFT ms", report.ttft_ms), ("inter-token ms", report.inter_token_ms)]
    measured += [(f"time to cancel ms: {cell}", summary) for cell, summary in report.cancel_ms.items()]
    measured += [
        ("evicted, s from the last delta read", report.eviction_s),
        ("between reads of the status ms", report.status_gap_ms),
    ]
    cancel = f"{CANCEL_DEFINITION} {report.idle_answer_ms} ms." if report.cancel_ms else ""
    return Sheet(
        name=f"{report.scenario}, {report.took_s:.1f} s" + (", interrupted" if report.interrupted else ""),
        columns=["", "p50", "p95", "p99", "largest", "n"],
        cells=[_line(name, summary) for name, summary in measured if summary.count],
        rows=[report],
        goals=list(goals),
        definitions=DEFINITIONS + cancel,
        broken=[f"{count} x {kind}" for kind, count in report.errors.items()],
        notes=_notes(report),
    )


def _line(name: str, summary: Summary) -> list[str]:
    values = (summary.p50, summary.p95, summary.p99, summary.largest)
    return [name, *(number(value, 1) for value in values), str(summary.count)]


def _notes(report: Report) -> list[str]:
    counts = f"{report.started} started, {report.whole} whole, {report.unfinished} cut off by the end"
    notes = [f"requests: {counts}"]
    if report.output_tokens:
        notes.append(f"throughput: {report.tokens_s:.1f} tokens/s, {report.requests_s:.2f} whole requests/s")
    if report.evicted or any(ending.startswith("slow ") for ending in report.endings):
        notes.append(f"evicted: {report.evicted}")
    if report.status_events:
        notes.append(f"status: {report.status_events} events, {report.status_events_s:.1f} /s")
    return notes + [f"{count:>6} x {ending}" for ending, count in sorted(report.endings.items())]
