import pytest

from chart import svg
from report import build, error_kind, text
from scenarios import Record, Tally
from sse import Answer, Usage


def answer(ending="done", *, sent_s=0.0, content_s=(), tokens=None, **fields) -> Answer:
    seen = Answer(sent_s=sent_s, content_s=list(content_s), ending=ending, finish_reason="stop", status=200)
    seen.usage = Usage(5, tokens) if tokens is not None else None
    for name, value in fields.items():
        setattr(seen, name, value)
    return seen


def test_report_counts_polite_clients_only():
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
def test_what_counts_as_an_error(kind, seen, error):
    found = error_kind(Record(kind, seen))
    assert found is None if error is None else error in found


def test_eviction_time_runs_from_the_last_delta_read():
    tally = Tally(started_s=0.0)
    tally.records.append(Record("slow", answer("evicted", content_s=[1.0, 2.0], ended_s=5.5)))
    report = build(tally, "slow", 10.0)
    assert (report.evicted, report.eviction_s.p50) == (1, 3.5)


def test_cancel_p95_is_that_of_the_worst_cell():
    tally = Tally(0.0, cancel_s={"a": [0.010], "b": [0.030]}, idle_s=0.040)
    report = build(tally, "abort", 1.0)
    assert report.all_cancels_p95_ms == 30.0
    assert "minus its idle 40.0 ms" in text(report, [])


def test_a_chart_of_nothing_and_of_something():
    assert svg(build(Tally(0.0), "chat", 1.0)).startswith("<svg")
    tally = Tally(0.0)
    tally.records.append(Record("chat", answer(sent_s=0.5, content_s=[0.7, 0.8], tokens=2)))
    drawing = svg(build(tally, "chat", 1.0))
    assert drawing.count('r="2.5"') == 2
    assert "http" not in drawing.replace("http://www.w3.org/2000/svg", "")
