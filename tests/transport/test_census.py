"""Who counts as whom, and who is one too many."""

from contextlib import ExitStack

import pytest

from corral.transport import Limits
from corral.transport.census import REFUSALS, Census


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        (None, None, False),
    ],
)
def test_what_is_one_address(first: str | None, second: str | None, same: bool) -> None:
    census = Census(Limits(connections_per_address=1))
    with census.seat(first) as admitted, census.seat(second) as too:
        assert admitted
        assert too is not same
    assert census.connections == 0
    with census.seat(first) as again:
        assert again


@pytest.mark.parametrize("limit", [0, 3])
def test_the_total(limit: int) -> None:
    census = Census(Limits(connections=limit, connections_per_address=0))
    with ExitStack() as stack:
        admitted = [stack.enter_context(census.seat(f"192.0.2.{number}")) for number in range(5)]
    assert sum(admitted) == (limit or 5)


def test_politeness_has_an_end() -> None:
    census = Census(Limits())
    with ExitStack() as stack:
        polite = [stack.enter_context(census.refusal()) for _ in range(REFUSALS + 1)]
    assert polite == [True] * REFUSALS + [False]
