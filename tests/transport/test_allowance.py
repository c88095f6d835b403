"""How much is too much, on a virtual clock."""

import trio
from trio.testing import MockClock

from corral.transport.allowance import Allowance


async def test_so_much_at_once_and_then_as_fast_as_it_is_earned(autojump_clock: MockClock) -> None:
    allowance = Allowance(at_once=10, per_s=2)
    assert [allowance.charge() for _ in range(10)] == [0] * 10
    assert allowance.charge() == 0.5
    assert allowance.charge(3) == 2.0
    assert allowance.owed_s == 7.0
    await trio.sleep(2)
    assert allowance.charge() == 0.5
    await trio.sleep(100)
    assert allowance.owed_s == 0
    assert allowance.charge(10) == 0
    assert allowance.charge() == 0.5


async def test_what_is_given_back_can_be_taken_again_and_no_more_than_at_once(
    autojump_clock: MockClock,
) -> None:
    allowance = Allowance(at_once=10, per_s=2)
    allowance.charge(10)
    allowance.earn(4)
    assert allowance.charge(4) == 0
    allowance.earn(1000)
    assert allowance.charge(10) == 0
    assert allowance.charge() == 0.5
