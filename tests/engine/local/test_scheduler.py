"""The scheduler by itself: turns, budgets, cells, and what is reused."""

from collections.abc import Sequence as TokenSequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from corral.engine.local.cache.operations import Copy, Drop, Forget, Load, Save
from corral.engine.local.scheduler import Scheduler, Sequence, Step


@dataclass
class Cache:
    """A KV cache that does what the scheduler says and insists that it makes sense."""

    scheduler: Scheduler
    tokens: dict[int, list[tuple[int, int]]] = field(default_factory=dict)  # (token, cell) by sequence
    saved: dict[int, list[int]] = field(default_factory=dict)  # tokens by state
    next_cell: int = 0
    copied: int = 0
    loaded: int = 0

    def apply(self, step: Step) -> None:
        for operation in step.memory:
            match operation:
                case Forget(sequence):
                    self.tokens.pop(sequence, None)
                case Copy(source, target, length):
                    assert not self.tokens.get(target)
                    assert len(self.tokens[source]) >= length
                    self.tokens[target] = self.tokens[source][:length]
                    self.copied += length
                case Save(sequence, state):
                    self.saved[state] = [token for token, _ in self.tokens[sequence]]
                case Load(state, target, length):
                    assert not self.tokens.get(target)
                    self._append(target, self.saved[state])
                    assert self.used <= self.scheduler.ctx_tokens
                    del self.tokens[target][length:]
                    self.loaded += length
                case Drop(state):
                    del self.saved[state]
        assert set(self.saved) == set(self.scheduler.saved)
        assert sum(map(len, self.saved.values())) == self.scheduler.saved.total <= self.scheduler.saved_tokens
        for sequence, chunk in step.chunks:
            held = self.tokens.setdefault(chunk.sequence, [])
            assert chunk.position == len(held), "a gap or an overlap"
            assert [token for token, _ in held] == sequence.tokens[: len(held)], "somebody else's prefix"
            self._append(chunk.sequence, chunk.tokens)
        assert self.used <= self.scheduler.ctx_tokens

    def _append(self, sequence: int, tokens: TokenSequence[int]) -> None:
        held = self.tokens.setdefault(sequence, [])
        for token in tokens:
            held.append((token, self.next_cell))
            self.next_cell += 1

    @property
    def used(self) -> int:
        return len({cell for held in self.tokens.values() for _, cell in held})

    def advance(self, prefill_tokens: int = 64, next_token: int = 0) -> Step:
        """One committed step, every row of logits sampled to `next_token`."""
        step = self.scheduler.plan(prefill_tokens)
        self.apply(step)
        self.scheduler.commit(step)
        for sequence, chunk in step.chunks:
            if chunk.rows:
                sequence.tokens.append(next_token)
        return step


def cache(ctx_tokens: int = 100, sequences: int = 8, **options: Any) -> Cache:
    return Cache(Scheduler(sequences=sequences, ctx_tokens=ctx_tokens, batch_tokens=64, **options))


def sizes(step: Step) -> list[int]:
    return [len(chunk.tokens) for _, chunk in step.chunks]


def test_a_prompt_is_cut_into_chunks_of_the_budget_and_only_the_last_wants_logits() -> None:
    kv = cache()
    kv.scheduler.add(range(10))
    steps = [kv.advance(prefill_tokens=4) for _ in range(3)]
    assert [sizes(step) for step in steps] == [[4], [4], [2]]
    assert [chunk.rows for step in steps for _, chunk in step.chunks] == [0, 0, 1]


def test_decoding_and_prefill_take_turns() -> None:
    kv = cache()
    kv.scheduler.add([1])
    kv.advance()
    kv.scheduler.add(range(10, 18))
    steps = [kv.advance(prefill_tokens=4) for _ in range(5)]
    assert [sizes(step) for step in steps] == [[1], [4], [1], [4], [1, 1]]
    assert [step.is_prefill for step in steps] == [False, True, False, True, False]


def test_decoding_is_held_as_long_as_the_caller_says_and_then_has_its_turn() -> None:
    kv = cache()
    kv.scheduler.add([1])
    kv.advance()
    kv.scheduler.add(range(10, 18))
    assert kv.scheduler.prefill_left == 8
    steps = []
    for holds in (True, True, False):
        step = kv.scheduler.plan(3, holds_decoding=holds)
        kv.scheduler.commit(step)
        steps.append(sizes(step))
    assert steps == [[3], [3], [1]]
    assert kv.scheduler.prefill_left == 2


def test_several_prompts_share_one_prefill_step_in_order_of_arrival() -> None:
    kv = cache()
    for start in (0, 100, 200):
        kv.scheduler.add(range(start, start + 5))
    assert sizes(kv.advance(prefill_tokens=12)) == [5, 5, 2]


def test_a_prompt_waits_until_all_of_it_fits_and_is_not_overtaken() -> None:
    kv = cache(ctx_tokens=60)
    running = kv.scheduler.add(range(20))
    kv.advance()
    kv.scheduler.add(range(100, 130))  # 21 held + 16 of growth + 30 > 60
    kv.scheduler.add(range(200, 202))  # would fit, but came later
    for _ in range(4):
        assert sizes(kv.advance()) == [1]
    kv.scheduler.remove(running)
    assert sizes(kv.advance()) == [30, 2]


def test_growth_past_the_pool_makes_the_youngest_step_back_and_the_oldest_goes_on() -> None:
    kv = cache(ctx_tokens=64)
    old, young = kv.scheduler.add(range(20)), kv.scheduler.add(range(100, 120))
    kv.advance()
    while young.has_begun:
        kv.advance()
    assert old.is_decoding
    assert sizes(kv.advance()) == [1], "the young one has no room to begin again"
    kv.scheduler.remove(old)
    kv.advance()
    assert young.has_begun
    assert young.computed == len(young.tokens) - 1


def test_a_prompt_begins_with_what_an_ended_one_left() -> None:
    kv = cache()
    first = kv.scheduler.add(range(30))
    kv.advance()
    kv.scheduler.remove(first)
    again = kv.scheduler.add([*range(25), 99, 98])
    assert sizes(kv.advance()) == [2]
    assert again.cached_tokens == 25
    assert kv.used == 30 + 2, "the shared cells are the same cells"


def test_a_full_hit_computes_the_last_token_only() -> None:
    kv = cache()
    kv.scheduler.remove(_computed(kv, range(30)))
    again = kv.scheduler.add(range(30))
    assert sizes(kv.advance()) == [1]
    assert again.cached_tokens == 29


def test_a_cancelled_prefill_goes_on_where_it_stopped() -> None:
    kv = cache()
    first = kv.scheduler.add(range(50))
    kv.advance(prefill_tokens=32)
    kv.scheduler.remove(first)
    again = kv.scheduler.add(range(50))
    assert sizes(kv.advance()) == [18]
    assert again.cached_tokens == 32


def test_prompts_that_arrive_together_compute_what_they_share_once() -> None:
    kv = cache(ctx_tokens=400)
    prompts = [[*range(64), 100 + n, 200 + n] for n in range(4)]
    sequences = [kv.scheduler.add(prompt) for prompt in prompts]
    computed = [sum(sizes(kv.advance(prefill_tokens=32))) for _ in range(4)]
    assert computed[:3] == [32, 32, 2 + 3 * 2], "three wait for the first, then all end in one step"
    assert [sequence.cached_tokens for sequence in sequences] == [0, 64, 64, 64]


def test_when_the_one_in_front_leaves_the_next_takes_over_what_it_had() -> None:
    kv = cache(ctx_tokens=400)
    first, second = (kv.scheduler.add([*range(64), n]) for n in (100, 101))
    kv.advance(prefill_tokens=32)
    kv.scheduler.remove(first)
    assert sizes(kv.advance()) == [33]
    assert second.cached_tokens == 32


def test_the_least_recently_used_remainder_is_forgotten_first_and_shared_cells_cost_nothing() -> None:
    kv = cache(ctx_tokens=100)
    old = _computed(kv, range(100, 130))
    kv.scheduler.remove(old)
    kv.scheduler.remove(_computed(kv, range(200, 230)))
    kv.scheduler.remove(_computed(kv, range(100, 130)))  # used again
    kv.scheduler.remove(_computed(kv, range(300, 350)))  # needs room: 200.. goes
    assert kv.scheduler.cache.longest(_array(range(100, 130)), whole_only=False) is not None
    assert kv.scheduler.cache.longest(_array(range(200, 230)), whole_only=False) is None


def test_remainders_beyond_their_share_leave_but_for_the_newest() -> None:
    kv = cache()
    kv.scheduler.remainder_tokens = 15
    running = _computed(kv, range(500, 510))
    for start in (100, 200, 300):
        kv.scheduler.remove(_computed(kv, range(start, start + 10)))
    free = [kv.scheduler.cells.free for _ in range(4) if kv.advance()]
    assert free == [79, 78, 77, 76], "10 for a remainder, 1 a step for the running one"
    assert kv.scheduler.cache.longest(_array(range(300, 310)), whole_only=False) is not None
    kv.scheduler.remove(running)
    assert kv.scheduler.cells.reclaimable == 100


def test_remainders_that_share_nothing_physically_are_counted_whole() -> None:
    kept = []
    for shares_cells in (True, False):
        kv = cache(shares_cells=shares_cells)
        kv.scheduler.remainder_tokens = 15
        for own in (100, 200, 300):
            kv.scheduler.remove(_computed(kv, [*range(20), own]))
        _computed(kv, [*range(20), 400])
        for _ in range(4):
            kv.advance()
        kept.append(len(kv.scheduler.cache))
    assert kept == [3, 1], "a running one holds what they begin with, or each has it for itself"


def test_what_leaves_the_cache_is_saved_and_loaded_by_who_begins_with_it() -> None:
    kv = cache(saved_tokens=80)
    kv.scheduler.remove(_computed(kv, range(100, 150)))
    kv.scheduler.remove(_computed(kv, range(200, 260)))  # no room beside the first one
    assert (kv.scheduler.saved.total, kv.scheduler.cells.free) == (50, 40)
    partial = _computed(kv, [*range(100, 120), 1, 2])
    assert (partial.cached_tokens, kv.loaded, kv.copied) == (20, 20, 0)
    assert 50 in map(len, kv.saved.values()), "it can be begun with again"
    kv.scheduler.remove(partial)
    whole = _computed(kv, [*range(100, 150), 3])
    assert whole.cached_tokens == 50
    assert 50 not in map(len, kv.saved.values()), "the sequence has all of it"


def test_the_least_recently_used_state_is_dropped_first_and_a_longer_one_replaces_its_prefixes() -> None:
    kv = cache(saved_tokens=100)
    for prompt in (range(100, 130), range(200, 230), range(100, 140)):
        kv.scheduler.remove(_computed(kv, prompt))
        kv.scheduler._evict()
    assert [len(kv.scheduler.saved.tokens(state)) for state in kv.scheduler.saved] == [30, 40]
    kv.scheduler.remove(_computed(kv, range(300, 350)))
    kv.scheduler._evict()
    assert [kv.scheduler.saved.tokens(state)[0] for state in kv.scheduler.saved] == [100, 300]


def test_little_of_a_long_state_is_not_worth_loading() -> None:
    kv = cache(saved_tokens=100)
    kv.scheduler.remove(_computed(kv, range(60)))
    kv.scheduler._evict()
    assert _computed(kv, [*range(7), 99]).cached_tokens == 0
    assert _computed(kv, [*range(8), 99]).cached_tokens == 8


def test_with_no_sequence_id_left_a_remainder_gives_up_its_own() -> None:
    kv = cache(sequences=2)
    kv.scheduler.remove(_computed(kv, range(20)))
    kv.scheduler.remove(_computed(kv, range(100, 120)))
    for start in (200, 300):
        kv.scheduler.add(range(start, start + 10))
    assert sizes(kv.advance()) == [10, 10]


def test_a_memory_that_cannot_be_cut_is_reused_only_whole() -> None:
    kv = cache(can_cut=False)
    kv.scheduler.remove(_computed(kv, range(30)))
    partial = kv.scheduler.add([*range(25), 99])
    kv.advance()
    assert partial.cached_tokens == 0
    kv.scheduler.remove(partial)
    extended = kv.scheduler.add([*range(30), 98, 97])
    kv.advance()
    assert extended.cached_tokens == 30


def test_without_reuse_nothing_stays() -> None:
    kv = cache(reuses_prefixes=False)
    kv.scheduler.remove(_computed(kv, range(30)))
    assert kv.scheduler.cells.free == 100


def test_drafts_go_along_as_far_as_there_is_room_and_a_wrong_one_is_cut_off() -> None:
    kv = cache()
    sequence = _computed(kv, range(10))
    step = kv.scheduler.plan(64, {sequence: [5, 6, 7]})
    [(_, chunk)] = step.chunks
    assert list(chunk.tokens) == [0, 5, 6, 7]
    assert chunk.rows == 4
    kv.scheduler.commit(step)
    kv.scheduler.cut(sequence, 12)
    assert kv.scheduler.cells.length(chunk.sequence) == 12


def _computed(kv: Cache, prompt: TokenSequence[int]) -> Sequence:
    sequence = kv.scheduler.add(prompt)
    kv.scheduler._is_prefill_turn = True
    kv.advance()
    assert sequence.is_decoding
    return sequence


def _array(tokens: range) -> NDArray[np.int32]:
    return np.array(tokens, np.int32)


@settings(max_examples=300, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.integers(1, 40), st.integers(0, 40), st.integers(1, 20), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    budget=st.integers(1, 50),
    slots=st.integers(1, 4),
    spare=st.integers(0, 3),
    can_cut=st.booleans(),
    saved_tokens=st.sampled_from([0, 30, 200]),
    remainder_tokens=st.sampled_from([None, 0, 40]),
)
def test_every_sequence_ends_and_the_cache_is_never_overrun(
    requests: list[tuple[int, int, int, bool]],
    budget: int,
    slots: int,
    spare: int,
    can_cut: bool,
    saved_tokens: int,
    remainder_tokens: int | None,
) -> None:
    """Prompts share prefixes of all lengths; some leave at their first token."""
    kv = cache(ctx_tokens=80, sequences=slots + spare, can_cut=can_cut, saved_tokens=saved_tokens)
    kv.scheduler.remainder_tokens = remainder_tokens
    kv.scheduler.batch_tokens = 16
    waiting = list(requests)
    goals: dict[Sequence, int] = {}
    for _ in range(5000):
        while waiting and len(kv.scheduler.running) < slots:
            length, branch, output, leaves = waiting.pop(0)
            prompt = [*range(min(branch, length)), *(1000 + n for n in range(branch, length))]
            goals[kv.scheduler.add(prompt)] = length + (1 if leaves else output)
        if not kv.scheduler.running:
            break
        step = kv.advance(budget)
        assert 0 < step.tokens <= 16
        for sequence in list(kv.scheduler.running):
            if len(sequence.tokens) >= goals[sequence]:
                kv.scheduler.remove(sequence)
    else:
        pytest.fail("a sequence never ended")
    assert kv.scheduler.cells.pinned == 0
    kv.apply(kv.scheduler.plan(1))
    assert kv.used == 80 - kv.scheduler.cells.free
