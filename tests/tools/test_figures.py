import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from figures import Threshold, gaps, percentile, summarize


def test_percentile_interpolates_between_neighbours():
    assert percentile([10, 20, 30, 40], 0.5) == 25
    assert percentile([40, 10, 30, 20], 1.0) == 40
    assert percentile([1, 2, 3, 4, 5], 0.95) == pytest.approx(4.8)
    assert percentile([7], 0.99) == 7


def test_percentile_of_nothing_is_not_a_number():
    assert math.isnan(percentile([], 0.5))
    assert msgspec.json.encode(summarize([])) == (
        b'{"count":0,"p50":null,"p95":null,"p99":null,"largest":null}'
    )


def test_percentile_refuses_percent():
    with pytest.raises(ValueError, match="between 0 and 1"):
        percentile([1], 95)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_percentile_lies_within_the_values(values, share):
    assert min(values) <= percentile(values, share) <= max(values) * (1 + 1e-12)


def test_summary_scales():
    summary = summarize([0.001, 0.003], scale=1e3)
    assert (summary.count, summary.p50, summary.largest) == (2, 2.0, 3.0)
    assert str(summarize([])) == "none"


def test_gaps():
    assert gaps([1.0, 1.5, 3.0]) == [0.5, 1.5]
    assert gaps([1.0]) == []


@pytest.mark.parametrize(
    ("limit", "measured", "at_most", "is_met"),
    [
        (10, 10, True, True),
        (10, 10.1, True, False),
        (10, 9, False, False),
        (10, 10, False, True),
        (10, None, True, False),
    ],
)
def test_threshold(limit, measured, at_most, is_met):
    assert Threshold("x", limit, measured, at_most).is_met is is_met


def test_what_was_not_measured_is_said_so():
    assert "not measured" in str(Threshold("x", 1, None, True))
