"""The estimate of a wait, against waits that are known."""

import heapq
import random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.serving.estimate import FEWEST_LENGTHS, KEPT_LENGTHS, Lengths, Speeds, Work, waits_s

SPEEDS = Speeds(prefill_tokens_per_s=100.0, decode_tokens_per_s=10.0, embed_tokens_per_s=50.0)


def knowing(*tokens: int) -> Lengths:
    lengths = Lengths()
    for length in tokens:
        lengths.add(length)
    return lengths


def work(prefill: int = 0, said: int = 0, max_tokens: int = 1000, *, is_limited: bool = True) -> Work:
    return Work(prefill, said, max_tokens, is_limited)


def test_the_first_in_line_waits_for_the_first_slot_that_falls_free() -> None:
    running = [work(said=50, max_tokens=100), work(prefill=200, max_tokens=20)]
    waits = waits_s(running, [[work()], [work()]], 2, Lengths(), SPEEDS)
    assert waits == [4.0, 5.0]


def test_who_stands_further_back_waits_for_those_in_front_too() -> None:
    running = [work(said=90, max_tokens=100)]
    line = [[work(max_tokens=30)], [work(prefill=100, max_tokens=10)], [work()]]
    assert waits_s(running, line, 1, Lengths(), SPEEDS) == [1.0, 4.0, 6.0]


def test_a_request_of_several_sequences_waits_for_as_many_slots() -> None:
    running = [work(said=90, max_tokens=100), work(said=50, max_tokens=100)]
    assert waits_s(running, [[work(), work()]], 2, Lengths(), SPEEDS) == [5.0]


def test_an_answer_is_expected_to_be_as_long_as_those_that_were_longer_than_it_is_now() -> None:
    lengths = knowing(*[10] * 5, *[100] * 5)
    assert lengths.left(work(said=0)) == 55
    assert lengths.left(work(said=10)) == pytest.approx((5 * 90 + 55) / 6)
    assert lengths.left(work(said=0, max_tokens=50)) == pytest.approx((5 * 10 + 5 * 50 + 55) / 11), (
        "no answer is longer than it may be"
    )


def test_one_that_was_as_long_and_ended_right_after_does_not_decide_alone() -> None:
    lengths = knowing(*[10] * 19, 30)
    assert lengths.left(work(said=29)) == pytest.approx((1 + 11) / 2)


def test_one_that_is_longer_than_all_before_it_may_say_all_that_it_may() -> None:
    assert knowing(*[10] * 20).left(work(said=10, max_tokens=500)) == 490


def test_without_a_limit_and_with_few_answers_there_is_no_estimate() -> None:
    few, enough = knowing(*[10] * (FEWEST_LENGTHS - 1)), knowing(*[10] * FEWEST_LENGTHS)
    endless = work(is_limited=False)
    assert waits_s([endless], [[endless]], 1, few, SPEEDS) == [None]
    assert waits_s([endless], [[endless]], 1, enough, SPEEDS) == [1.0]
    assert waits_s([endless, work(said=90, max_tokens=100)], [[work()]], 2, few, SPEEDS) == [1.0], (
        "the other slot falls free whatever this one does"
    )


def test_only_the_last_answers_count() -> None:
    lengths = knowing(*[1000] * 50, *[10] * KEPT_LENGTHS)
    assert lengths.left(work()) == 10


@given(st.lists(st.integers(1, 500), min_size=FEWEST_LENGTHS, max_size=300), st.integers(0, 400))
def test_what_is_left_is_never_more_than_it_may_say_and_never_less_than_nothing(
    answers: list[int], said: int
) -> None:
    left = knowing(*answers).left(work(said=said, max_tokens=450))
    assert left is not None
    assert 0 <= left <= 450 - said


@pytest.mark.parametrize("seed", range(5))
def test_a_replay_of_random_arrivals_is_estimated_well(seed: int) -> None:
    """The figure that users get: |estimate - truth| / truth, over all who waited a second or more."""
    draw = random.Random(seed)
    slots, lengths = 4, knowing(*(int(draw.lognormvariate(4, 0.6)) + 1 for _ in range(KEPT_LENGTHS)))
    arrivals = [
        (number * 1.2, int(draw.lognormvariate(4, 0.6)) + 1, draw.randrange(20, 400)) for number in range(300)
    ]
    free_s = [0.0] * slots
    planned: list[tuple[float, float, int, int]] = []  # start, end, answer, prompt
    errors = []
    for arrived_s, answer, prompt in arrivals:
        running = [
            (end, size, length, start) for start, end, length, size in planned if start <= arrived_s < end
        ]
        waiting = [(length, size) for start, _, length, size in planned if start > arrived_s]
        start_s = max(arrived_s, heapq.heappop(free_s))
        end_s = start_s + prompt / SPEEDS.prefill_tokens_per_s + answer / SPEEDS.decode_tokens_per_s
        heapq.heappush(free_s, end_s)
        truth_s = start_s - arrived_s
        if truth_s >= 1:
            now = [_at(arrived_s, start, size, length) for _, size, length, start in running]
            line = [[work(size)] for _, size in waiting]
            estimate = waits_s(now, [*line, [work(prompt)]], slots, lengths, SPEEDS)[-1]
            assert estimate is not None
            errors.append(abs(estimate - truth_s) / truth_s)
        planned.append((start_s, end_s, answer, prompt))
    assert len(errors) > 50
    assert median(errors) < 0.3


def _at(now_s: float, start_s: float, prompt: int, answer: int) -> Work:
    """How far a sequence is."""
    passed_s = now_s - start_s
    prefill_s = prompt / SPEEDS.prefill_tokens_per_s
    if passed_s < prefill_s:
        return work(prefill=int(prompt - passed_s * SPEEDS.prefill_tokens_per_s))
    return work(said=min(answer - 1, int((passed_s - prefill_s) * SPEEDS.decode_tokens_per_s)))
