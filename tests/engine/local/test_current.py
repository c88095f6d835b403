"""Who leaves while a step runs, and when that cuts it short."""

import pytest

from corral.engine.local.current import CurrentStep
from corral.errors import EngineFailed


class Calls:
    def __init__(self) -> None:
        self.told: list[str] = []
        self.current = CurrentStep(lambda: self.told.append("abort"), lambda: self.told.append("rearm"))


@pytest.mark.parametrize(
    ("shares", "leaving", "is_cut"),
    [
        ([(1, 10)], [1], True),
        ([(1, 5), (2, 5)], [2], True),
        ([(1, 5), (2, 4)], [2], False),
        ([(1, 5), (2, 4), (3, 1)], [2, 3], True),
        ([(1, 5), (2, 3), (2, 2)], [2], True),
        ([(1, 1), (2, 4), (3, 4)], [1, 1, 1, 1, 1], False),
        ([(1, 1)], [7], False),
    ],
    ids=["alone", "half", "less", "two, together", "two chunks of one", "the same again", "a stranger"],
)
def test_a_step_is_cut_short_once_half_of_it_is_for_nobody(
    shares: list[tuple[int, int]], leaving: list[int], is_cut: bool
) -> None:
    calls = Calls()
    with calls.current.computing(lambda: shares):
        for key in leaving:
            calls.current.leave(key)
        assert calls.told == ["abort"] * is_cut
    assert calls.told == ["abort", "rearm"] * is_cut


def test_who_leaves_between_steps_cuts_none_and_a_cut_is_over_with_its_step() -> None:
    calls = Calls()
    calls.current.leave(1)
    with calls.current.computing(lambda: [(1, 10)]):
        calls.current.leave(1)
    with calls.current.computing(lambda: [(1, 10), (2, 1)]):
        calls.current.leave(2)
    assert calls.told == ["abort", "rearm"]


def test_a_step_has_an_age_while_it_runs_and_none_behind_one_that_failed() -> None:
    current = Calls().current

    def fail() -> None:
        with current.computing(list):
            assert current.age_s is not None
            assert current.age_s >= 0
            raise EngineFailed("no")

    assert current.age_s is None
    with pytest.raises(EngineFailed):
        fail()
    assert current.age_s is None
