import random

import pytest

from serverproc import Footprint
from soak import Company, Sample, parse, rss_growth, verdict
from sse import Answer


def samples(*megabytes, every_s=30.0):
    return [Sample(i * every_s, int(mb * 2**20), 10, 3) for i, mb in enumerate(megabytes)]


def test_growth_counts_from_minute_five():
    assert rss_growth(samples(*[50] * 10, *[100] * 30)) == 0.0
    assert rss_growth(samples(*[50] * 10, *[100] * 15, *[105] * 15)) == pytest.approx(0.05)


def test_growth_of_short_runs_counts_from_the_first_quarter():
    assert rss_growth(samples(50, 60, 70, 70, 70, 70, 70, 70, every_s=2)) < 0.2
    assert rss_growth(samples(50)) == 0.0


def company(**answers):
    seen = Company(None, ["abc"], 3, random.Random(1))
    for kind, answer in answers.items():
        seen.judge(kind, 0, answer)
    return seen


def answered(text, ending="done", **fields):
    return Answer(pieces=[text], ending=ending, finish_reason="length", status=200, **fields)


@pytest.mark.parametrize(
    ("answer", "is_wrong"),
    [
        (answered("abc"), False),
        (answered("abd"), True),
        (answered("ab", "cut"), True),
        (answered("abc", violations=["id changed"]), True),
        (Answer(ending="refused", status=429), False),
        (Answer(ending="refused", status=500), True),
    ],
)
def test_who_stays_gets_the_reference_answer(answer, is_wrong):
    assert bool(company(stay=answer).wrong) is is_wrong


def test_who_leaves_is_not_judged_by_text():
    assert company(leave=answered("a", "left"), stall=answered("a", "evicted")).wrong == []


@pytest.mark.parametrize(
    ("after", "together", "failed"),
    [
        (Footprint(2**20, 10, 3), 8, set()),
        (Footprint(2**20, 11, 3), 8, {"descriptors"}),
        (Footprint(2**20, 10, 4), 8, {"threads"}),
        (Footprint(2**20, 10, 3), 7, {"slots"}),
    ],
)
def test_verdict(after, together, failed):
    args = parse(["--minutes", "1"])
    checks = verdict(company(stay=answered("abc")), Footprint(2**20, 10, 3), after, [], together, args)
    assert {check.name for check in checks if not check.holds} == failed
