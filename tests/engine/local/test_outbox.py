from itertools import pairwise

import pytest

from corral.engine.contract import Waste
from corral.engine.local import outbox
from corral.engine.local.outbox import Outbox
from corral.engine.local.task import Delivery
from corral.errors import EngineFailed
from corral.events import BlockDelta, Failed, Prefill, Sampled, Started, TokenLogprob

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
        box.put(text(1, letter))
        box.before_step(STEP_S)
        clock.now_s += STEP_S
    assert [said(delivery) for delivery in told] == [{1: "a"}, {1: "bcd"}, {1: "efg"}]
    assert all(later - sooner <= 0.02 for sooner, later in pairwise(times))


def test_held_text_and_what_sends_it_off_are_one_delta(clock: Clock, told: list[Delivery]) -> None:
    box = Outbox(told.append, 0.02)
    box.flush()
    box.put(text(1, "a"))
    box.before_step(STEP_S)
    clock.now_s += STEP_S
    box.put(Delivery([*text(1, "b").events, *text(2, "x").events]))
    box.before_step(0.1)
    [delivery] = told
    assert delivery.events == [(1, [Sampled(2), BlockDelta(0, "ab")]), (2, [Sampled(1), BlockDelta(0, "x")])]


def test_text_is_held_beside_prompts_too_and_for_a_long_step_it_does_not_wait(
    clock: Clock, told: list[Delivery]
) -> None:
    box = Outbox(told.append, 0.02)
    box.flush()
    for step_s in (0.002, 0.004, 0.002):
        box.put(text(1, "a"))
        box.before_step(step_s)
        clock.now_s += step_s
    assert told == []
    box.before_step(0.016)  # a prompt's
    assert [said(delivery) for delivery in told] == [{1: "aaa"}]


def test_slow_steps_go_out_one_by_one(clock: Clock, told: list[Delivery]) -> None:
    box = Outbox(told.append, 0.02)
    for letter in "abc":
        box.put(text(1, letter))
        box.before_step(0.03)
        clock.now_s += 0.03
    assert [said(delivery) for delivery in told] == [{1: "a"}, {1: "b"}, {1: "c"}]


def test_without_an_interval_nothing_waits(clock: Clock, told: list[Delivery]) -> None:
    box = Outbox(told.append, 0.0)
    for letter in "ab":
        box.put(text(1, letter))
    assert len(told) == 2


def test_an_empty_turn_delivers_nothing(clock: Clock, told: list[Delivery]) -> None:
    box = Outbox(told.append, 0.0)
    box.put(Delivery())
    box.before_step(1.0)
    assert told == []


@pytest.mark.parametrize(
    "urgent",
    [
        Delivery([(2, [Started(5, 0)])]),
        Delivery([(2, [Prefill(5, 10)])]),
        Delivery([(2, [Failed(EngineFailed("no"))])]),
        Delivery(released=[(2, Waste())]),
    ],
    ids=["start", "progress", "failure", "release"],
)
def test_what_somebody_waits_for_goes_at_once_behind_what_was_held_of_it_and_nothing_else_goes(
    urgent: Delivery, clock: Clock, told: list[Delivery]
) -> None:
    box = Outbox(told.append, 0.02)
    box.put(Delivery(text(1, "b").events + text(2, "c").events))
    box.put(Delivery(urgent.events + text(1, "d").events, urgent.released))
    [delivery] = told
    assert delivery.events == [
        (2, [Sampled(1), BlockDelta(0, "c"), *(e for _, es in urgent.events for e in es)])
    ]
    assert delivery.released == urgent.released
    box.flush()
    assert said(told[1]) == {1: "bd"}


@pytest.mark.parametrize(
    "urgent",
    [Delivery(failure=EngineFailed("no")), Delivery(has_recovered=True)],
    ids=["lost", "rebuilt"],
)
def test_when_the_engine_fails_nothing_is_held(urgent: Delivery, clock: Clock, told: list[Delivery]) -> None:
    box = Outbox(told.append, 0.02)
    box.put(text(1, "a"))
    box.put(urgent)
    [delivery] = told
    assert said(delivery) == {1: "a"}
    assert delivery.failure is urgent.failure
    assert delivery.has_recovered is urgent.has_recovered


def test_the_more_streams_have_text_the_longer_it_is_held(clock: Clock, told: list[Delivery]) -> None:
    box = Outbox(told.append, 0.02)
    many = range(100)
    for _ in range(30):
        box.put(Delivery([(key, text(key, "x").events[0][1]) for key in many]))
        box.before_step(STEP_S)
        clock.now_s += STEP_S
    waits_s = 0.02 + 100 * outbox.STREAM_S
    assert len(told) == pytest.approx(30 * STEP_S / waits_s, abs=1.5)
    assert all(len(delivery.events) == 100 for delivery in told)


def test_the_text_of_steps_that_go_together_is_one_delta_and_their_counts_one_step(
    clock: Clock, told: list[Delivery]
) -> None:
    box = Outbox(told.append, 0.02)
    logprob = TokenLogprob(b"a", -1.0)
    draft = Sampled(3, (b"c", b"d"), accepted=2)
    box.put(Delivery([(1, [Sampled(1), BlockDelta(0, "a", (logprob,))]), (2, [Sampled(1)])]))
    box.put(Delivery([(1, [draft, BlockDelta(0, "bcd")])]))
    box.put(Delivery([(1, [Sampled(2, reasoning_tokens=1), BlockDelta(0, "ef")])]))
    box.flush()
    assert told[0].events == [
        (1, [draft, Sampled(3, reasoning_tokens=1), BlockDelta(0, "abcdef", (logprob,))]),
        (2, [Sampled(1)]),
    ]
    box.flush()
    assert len(told) == 1, "and nothing is said twice"
