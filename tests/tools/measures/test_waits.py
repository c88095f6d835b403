import pytest

from tools.clients.sse import Answer
from tools.measures.arrivals import drawn, recorded
from tools.measures.bed import Bed
from tools.measures.plan import QUICK
from tools.measures.waits import foretold, waits


def test_what_was_told_is_held_against_what_came() -> None:
    answer = Answer(waits=[(10.0, 5.0), (11.0, None), (12.0, 2.0), (13.5, 0.1)], served_s=14.0)
    told = foretold(answer)
    assert [(row.told_s, row.true_s, row.is_first) for row in told] == [(5.0, 4.0, True), (2.0, 2.0, False)]
    assert [row.error for row in told] == pytest.approx([0.25, 0.0])
    assert [row.ratio for row in told] == pytest.approx([1.25, 1.0])


def test_one_that_was_never_served_says_nothing() -> None:
    assert foretold(Answer(waits=[(10.0, 5.0)])) == []


def test_drawn_arrivals_are_the_same_in_every_run() -> None:
    assert drawn(50, 1) == drawn(50, 1)
    assert drawn(50, 1) != drawn(50, 2)
    times = [arrival.at_s for arrival in drawn(80, 1)]
    assert times == sorted(times)
    assert times[39] < 0.6 * (times[79] - times[40]), "the first spell is the busy one"


def test_recorded_arrivals_are_another_part_of_the_recording_each_time() -> None:
    parts = [recorded(160, part) for part in range(3)]
    assert [len(part) for part in parts] == [160] * 3
    assert len({part[0].at_s for part in parts}) == 3
    for part in parts:
        times = [arrival.at_s for arrival in part]
        assert times == sorted(times)
        assert max(arrival.words for arrival in part) <= 400


async def test_it_can_be_measured() -> None:
    sheet = await waits(Bed(), QUICK)
    assert sheet.broken == []
    assert len(sheet.cells) == 4
