"""The scheduler by itself: turns, budgets, slots and cells."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.engine.scheduler import Scheduler, Sequence, Step


def sizes(step: Step) -> list[tuple[int, int]]:
    return [(chunk.sequence, len(chunk.tokens)) for _, chunk in step.chunks]


def advance(scheduler: Scheduler, prefill_tokens: int = 64) -> Step:
    """One committed step, every row of logits sampled to token 0."""
    step = scheduler.plan(prefill_tokens)
    scheduler.commit(step)
    for sequence, chunk in step.chunks:
        if chunk.wants_logits:
            sequence.tokens.append(0)
    return step


def test_a_prompt_is_cut_into_chunks_of_the_budget_and_only_the_last_wants_logits() -> None:
    scheduler = Scheduler(slots=1, ctx_tokens=100, batch_tokens=64)
    scheduler.add(range(10))
    steps = [advance(scheduler, prefill_tokens=4) for _ in range(3)]
    assert [sizes(step) for step in steps] == [[(0, 4)], [(0, 4)], [(0, 2)]]
    assert [chunk.wants_logits for step in steps for _, chunk in step.chunks] == [False, False, True]
    assert [list(chunk.tokens) for step in steps for _, chunk in step.chunks] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]


def test_decoding_and_prefill_take_turns() -> None:
    scheduler = Scheduler(slots=2, ctx_tokens=100, batch_tokens=64)
    scheduler.add([1])
    advance(scheduler)
    scheduler.add(range(8))
    kinds = [sizes(advance(scheduler, prefill_tokens=4)) for _ in range(5)]
    assert kinds == [[(0, 1)], [(1, 4)], [(0, 1)], [(1, 4)], [(0, 1), (1, 1)]]


def test_several_prompts_share_one_prefill_step_in_order_of_arrival() -> None:
    scheduler = Scheduler(slots=3, ctx_tokens=100, batch_tokens=64)
    for length in (5, 5, 5):
        scheduler.add(range(length))
    assert sizes(advance(scheduler, prefill_tokens=12)) == [(0, 5), (1, 5), (2, 2)]


def test_a_freed_slot_is_given_out_again() -> None:
    scheduler = Scheduler(slots=2, ctx_tokens=100, batch_tokens=64)
    first, second = scheduler.add([1]), scheduler.add([1])
    scheduler.remove(first)
    assert scheduler.add([1]).slot == first.slot
    assert second.slot != first.slot
    assert scheduler.free_slots == 0


def test_a_prompt_waits_until_all_of_it_fits_and_is_not_overtaken() -> None:
    scheduler = Scheduler(slots=3, ctx_tokens=60, batch_tokens=64)
    running = scheduler.add(range(20))
    advance(scheduler)
    scheduler.add(range(30))  # 21 held + 16 of growth + 30 > 60
    scheduler.add(range(2))  # would fit, but came later
    for _ in range(4):
        assert sizes(advance(scheduler)) == [(running.slot, 1)]
    scheduler.remove(running)
    assert sizes(advance(scheduler)) == [(1, 30), (2, 2)]


def test_growth_past_the_pool_preempts_the_youngest_and_the_oldest_goes_on() -> None:
    scheduler = Scheduler(slots=2, ctx_tokens=64, batch_tokens=64)
    old, young = scheduler.add(range(20)), scheduler.add(range(20))
    preempted: list[Sequence] = []
    while not preempted:
        preempted += advance(scheduler).preempted
    assert preempted == [young]
    assert young.computed == 0
    assert not young.holds_cells
    assert sizes(advance(scheduler)) == [(old.slot, 1)]
    scheduler.remove(old)
    step = advance(scheduler)
    assert sizes(step) == [(young.slot, len(young.tokens) - 1)], "all of it is computed again"


@settings(max_examples=200)
@given(
    prompts=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    outputs=st.lists(st.integers(1, 20), min_size=12, max_size=12),
    budget=st.integers(1, 50),
    slots=st.integers(1, 4),
)
def test_every_sequence_ends_and_the_cache_is_never_overrun(
    prompts: list[int], outputs: list[int], budget: int, slots: int
) -> None:
    scheduler = Scheduler(slots=slots, ctx_tokens=64, batch_tokens=16)
    waiting = list(zip(prompts, outputs, strict=False))
    goals: dict[Sequence, int] = {}
    cache: dict[int, int] = dict.fromkeys(range(slots), 0)
    for _ in range(5000):
        while waiting and scheduler.free_slots:
            prompt, output = waiting.pop(0)
            goals[scheduler.add(range(prompt))] = prompt + output
        if not scheduler.running:
            break
        step = scheduler.plan(budget)
        for sequence in step.preempted:
            cache[sequence.slot] = 0
        assert 0 < step.tokens <= 16
        for _, chunk in step.chunks:
            assert chunk.position == cache[chunk.sequence]
            cache[chunk.sequence] += len(chunk.tokens)
        assert sum(cache.values()) <= 64
        scheduler.commit(step)
        for sequence, chunk in step.chunks:
            if not chunk.wants_logits:
                continue
            sequence.tokens.append(0)
            if len(sequence.tokens) == goals[sequence]:
                scheduler.remove(sequence)
                cache[sequence.slot] = 0
    else:
        pytest.fail("a sequence never ended")
    assert scheduler.free_slots == slots
    assert scheduler.held_cells == 0
