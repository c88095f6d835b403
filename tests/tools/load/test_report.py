import pytest
from tests.tools.load.answers import answer

from tools.clients.sse import Answer
from tools.load.report import build, error_kind, sheet_of
from tools.load.scenarios import Record, Tally


def test_report_counts_polite_clients_only() -> None:
    tally = Tally(started_s=100.0, started=4, unfinished=1)
    tally.records += [
        Record("chat", answer(sent_s=100.0, content_s=[100.1, 100.2, 100.4], tokens=30)),
        Record("chat", answer(sent_s=101.0, content_s=[101.3], tokens=10)),
        Record("abort", answer("left", sent_s=100.0, content_s=[105.0])),
    ]
    report = build(tally, "mixed", 110.0)
    assert (report.started, report.whole, report.unfinished) == (4, 2, 1)
    assert (report.output_tokens, report.tokens_s, report.requests_s) == (40, 4.0, 0.2)
    assert report.ttft_ms.p50 == pytest.approx(200)
    assert report.inter_token_ms.largest == pytest.approx(200)
    assert report.error_count == 0
    assert [point.at_s for point in report.points] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("kind", "seen", "error"),
    [
        ("chat", answer(), None),
        ("abort", answer("left"), None),
        ("slow", answer("evicted"), None),
        ("slow", answer("left"), "never evicted"),
        ("stall", answer("left"), None),
        ("chat", answer("refused", status=429), "refused 429"),
        ("chat", answer("cut", error="ConnectionResetError"), "cut: ConnectionResetError"),
        ("chat", answer(finish_reason=None), "without a finish reason"),
        ("abort", answer("left", violations=["id changed"]), "id changed"),
    ],
)
def test_what_counts_as_an_error(kind: str, seen: Answer, error: str | None) -> None:
    found = error_kind(Record(kind, seen))
    assert found == error if error is None else error in (found or "")


def test_eviction_time_runs_from_the_last_delta_read() -> None:
    tally = Tally(started_s=0.0)
    tally.records.append(Record("slow", answer("evicted", content_s=[1.0, 2.0], ended_s=5.5)))
    report = build(tally, "slow", 10.0)
    assert (report.evicted, report.eviction_s.p50) == (1, 3.5)


def test_cancel_p95_is_that_of_the_worst_cell() -> None:
    tally = Tally(0.0, cancel_s={"a": [0.010], "b": [0.030]}, idle_s=0.040)
    report = build(tally, "abort", 1.0)
    assert report.all_cancels_p95_ms == 30.0
    assert "minus its idle 40.0 ms" in sheet_of(report, []).definitions
    assert [line[0] for line in sheet_of(report, []).cells] == [
        "time to cancel ms: a",
        "time to cancel ms: b",
    ]


def test_errors_are_what_went_wrong_and_a_run_that_was_stopped_says_so() -> None:
    tally = Tally(0.0)
    tally.records += [Record("chat", answer("refused", status=429)), Record("abort", answer("left"))]
    sheet = sheet_of(build(tally, "mixed", 1.0, interrupted=True), [])
    assert sheet.name == "mixed, 1.0 s, interrupted"
    assert sheet.broken == ["1 x refused 429"]
    assert "     1 x abort left" in sheet.notes
