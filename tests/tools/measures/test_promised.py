import pytest

from tools.measures.promised import pace_of, promised_gap_ms


@pytest.mark.parametrize(
    ("flags", "pace"),
    [
        ((), "balanced"),
        (("--pace", "throughput"), "throughput"),
        (("--step-budget-ms", "9", "--pace=smooth"), "smooth"),
    ],
)
def test_the_goals_are_those_of_the_pace_that_the_server_has(flags: tuple[str, ...], pace: str) -> None:
    assert pace_of(flags) == pace


def test_what_is_promised_is_the_servers_own_figure() -> None:
    assert promised_gap_ms("balanced") == 250
    with pytest.raises(ValueError):
        promised_gap_ms("none of them")
