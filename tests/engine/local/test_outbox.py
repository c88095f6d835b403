from itertools import pairwise
from typing import Any

import pytest

from corral.engine.contract import Waste
from corral.engine.local import outbox
from corral.engine.local.outbox import Outbox
from corral.engine.local.task import Delivery
from corral.errors import EngineFailed
from corral.events import BlockDelta, Event, Failed, Prefill, Sampled, Started

STEP_S = 0.006


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(outbox, "perf_counter", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def told() -> list[Delivery]:
    return []


def text(key: int, said: str) -> Delivery:
    return Delivery([(key, [Sampled(1), BlockDelta(0, said)])])


def said(delivery: Delivery) -> dict[int, str]:
    return {
        key: "".join(event.text for event in events if isinstance(event, BlockDelta))
        for key, events in delivery.events
    }


def test_quick_steps_go_out_together_and_none_waits_longer_than_the_interval(
    clock: Clock, told: list[Delivery]
) -> None:
    times: list[float] = []

    def deliver(delivery: Delivery) -> None:
        told.append(delivery)
        times.append(clock.now_s)

    box = Outbox(deliver, 0.02)
    for letter in "abcdefgh":
        box.put(text(1, letter), STEP_S)
        clock.now_s += STEP_S
    assert [said(delivery) for delivery in told] == [{1: "a"}, {1: "bcd"}, {1: "efg"}]
    assert all(later - sooner <= 0.02 for sooner, later in pairwise(times))


def test_slow_steps_go_out_one_by_one(clock: Clock, told: list[Delivery]) -> None:
    box = Outbox(told.append, 0.02)
    for letter in "abc":
        box.put(text(1, letter), 0.03)
        clock.now_s += 0.03
    assert [said(delivery) for delivery in told] == [{1: "a"}, {1: "b"}, {1: "c"}]


def test_without_an_interval_nothing_waits(clock: Clock, told: list[Delivery]) -> None:
    box = Outbox(told.append, 0.0)
    for letter in "ab":
        box.put(text(1, letter), STEP_S)
    assert len(told) == 2


def test_an_empty_turn_delivers_nothing(clock: Clock, told: list[Delivery]) -> None:
    Outbox(told.append, 0.0).put(Delivery(), None)
    assert told == []


def test_nothing_waits_for_a_step_nobody_knows_the_length_of(clock: Clock, told: list[Delivery]) -> None:
    box = Outbox(told.append, 0.02)
    box.put(text(1, "a"), STEP_S)
    box.put(text(1, "b"), STEP_S)
    box.put(Delivery(), None)
    assert [said(delivery) for delivery in told] == [{1: "a"}, {1: "b"}]


@pytest.mark.parametrize(
    "urgent",
    [
        Delivery([(2, [Started(5, 0)])]),
        Delivery([(2, [Prefill(5, 10)])]),
        Delivery([(2, [Failed(EngineFailed("no"))])]),
        Delivery(released=[(2, Waste())]),
        Delivery(failure=EngineFailed("no")),
        Delivery(has_recovered=True),
    ],
    ids=["start", "progress", "failure", "release", "lost", "rebuilt"],
)
def test_what_somebody_waits_for_goes_at_once_and_takes_along_what_was_held(
    urgent: Delivery, clock: Clock, told: list[Delivery]
) -> None:
    box = Outbox(told.append, 0.02)
    box.put(text(1, "a"), STEP_S)
    box.put(text(1, "b"), STEP_S)
    box.put(urgent, STEP_S)
    assert len(told) == 2
    assert said(told[1])[1] == "b"
    assert told[1].released == urgent.released
    assert told[1].failure is urgent.failure
    assert told[1].has_recovered is urgent.has_recovered
    assert told[1].events[1:] == urgent.events


def test_events_keep_their_order_and_a_tasks_are_one_list(clock: Clock, told: list[Delivery]) -> None:
    box = Outbox(told.append, 0.02)
    box.put(text(9, "x"), STEP_S)
    first: list[Any] = [BlockDelta(0, "a")]
    second: list[Event] = [BlockDelta(0, "b")]
    box.put(Delivery([(1, first), (2, [BlockDelta(0, "c")])]), STEP_S)
    box.put(Delivery([(2, [BlockDelta(0, "d")]), (1, second)]), STEP_S)
    box.flush()
    assert [(key, [event.text for event in events]) for key, events in told[1].events] == [  # type: ignore[union-attr]
        (1, ["a", "b"]),
        (2, ["c", "d"]),
    ]
    box.flush()
    assert len(told) == 2, "and nothing is said twice"
