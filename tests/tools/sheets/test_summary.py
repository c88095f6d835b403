import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.sheets.summary import gaps, gaps_within, percentile, summarize


def test_percentile_interpolates_between_neighbours() -> None:
    assert percentile([10, 20, 30, 40], 0.5) == 25
    assert percentile([40, 10, 30, 20], 1.0) == 40
    assert percentile([1, 2, 3, 4, 5], 0.95) == pytest.approx(4.8)
    assert percentile([7], 0.99) == 7


def test_percentile_of_nothing_is_not_a_number() -> None:
    assert math.isnan(percentile([], 0.5))
    assert msgspec.json.encode(summarize([])) == (
        b'{"count":0,"p50":null,"p95":null,"p99":null,"largest":null}'
    )


def test_percentile_refuses_percent() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        percentile([1], 95)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_percentile_lies_within_the_values(values: list[float], share: float) -> None:
    assert min(values) <= percentile(values, share) <= max(values) * (1 + 1e-12)


def test_summary_scales() -> None:
    summary = summarize([0.001, 0.003], scale=1e3)
    assert (summary.count, summary.p50, summary.largest) == (2, 2.0, 3.0)
    assert str(summarize([])) == "none"


def test_gaps() -> None:
    assert gaps([1.0, 1.5, 3.0]) == [0.5, 1.5]
    assert gaps([1.0]) == []


def test_gaps_within_an_interval_and_across_its_end() -> None:
    times = [1.0, 2.0, 2.5, 4.0, 9.0]
    assert gaps_within(times, 2.0, 3.0) == [0.5, 1.5]
    assert gaps_within(times, 5.0, 6.0) == []
