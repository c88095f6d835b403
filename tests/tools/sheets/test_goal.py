import pytest

from tools.sheets.goal import Goal


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
def test_when_a_goal_is_met(limit: float, measured: float | None, at_most: bool, is_met: bool) -> None:
    assert Goal("x", limit, measured, at_most).is_met is is_met


def test_what_was_not_measured_is_said_so() -> None:
    assert "not measured" in str(Goal("x", 1, None, True))


def test_what_is_counted_has_no_decimals() -> None:
    assert str(Goal("errors", 0, 3.0, True)) == "MISSED errors 3 <= 0"
    assert str(Goal("ratio", 1.5, 1.4, False)) == "MISSED ratio 1.400 >= 1.5"
