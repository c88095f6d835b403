"""The scheduler by itself: turns, budgets, cells, and what is reused."""

from collections.abc import Sequence as TokenSequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.local.drive import FixedCosts

from corral.engine.local.backend import CacheShape
from corral.engine.local.cache.cache import CacheBooks, KeepOptions
from corral.engine.local.cache.operations import Copy, Cut, Drop, Forget, Load, Save
from corral.engine.local.costs import SEED, WIDE_TOKENS
from corral.engine.local.lane import Lane
from corral.engine.local.scheduler import Scheduler, Step


@dataclass
class Cache:
    """A KV cache that does what the scheduler says and insists that it makes sense."""

    scheduler: Scheduler
    saved_tokens: int = 0
    tokens: dict[int, list[tuple[int, int]]] = field(default_factory=dict)  # (token, cell) by sequence
    saved: dict[int, list[int]] = field(default_factory=dict)  # tokens by state
    next_cell: int = 0
    copied: int = 0
    loaded: int = 0
    decodes_next: bool = True

    @property
    def books(self) -> CacheBooks:
        return self.scheduler.cache

    @property
    def ctx_tokens(self) -> int:
        return self.books.shape.ctx_tokens

    def apply(self, step: Step) -> None:
        for operation in self.books.take_operations():
            match operation:
                case Forget(sequence):
                    self.tokens.pop(sequence, None)
                case Cut(sequence, length):
                    del self.tokens[sequence][length:]
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
                    assert self.used <= self.ctx_tokens
                    del self.tokens[target][length:]
                    self.loaded += length
                case Drop(state):
                    del self.saved[state]
        assert set(self.saved) == set(self.books.saved)
        assert sum(map(len, self.saved.values())) == self.books.saved.total <= self.saved_tokens
        for lane, chunk in step.chunks:
            held = self.tokens.setdefault(chunk.sequence, [])
            assert chunk.position == len(held), "a gap or an overlap"
            assert [token for token, _ in held] == lane.tokens[: len(held)], "somebody else's prefix"
            self._append(chunk.sequence, chunk.tokens)
        assert self.used <= self.ctx_tokens

    def _append(self, sequence: int, tokens: TokenSequence[int]) -> None:
        held = self.tokens.setdefault(sequence, [])
        for token in tokens:
            held.append((token, self.next_cell))
            self.next_cell += 1

    @property
    def used(self) -> int:
        return len({cell for held in self.tokens.values() for _, cell in held})

    def advance(self, prefill_tokens: int = 64, next_token: int = 0, *, prefill_first: bool = False) -> Step:
        """One committed step, every row of logits sampled to `next_token`.

        Decoding and prompts take turns, unless the prompts come first.
        """
        decodes = self.decodes_next and not prefill_first and self.scheduler.load().decoding > 0
        self.decodes_next = not decodes
        step = self.scheduler.plan(0 if decodes else prefill_tokens)
        self.apply(step)
        self.scheduler.commit(step)
        for lane, chunk in step.chunks:
            if chunk.rows:
                lane.tokens.append(next_token)
        return step

    def add(self, prompt: TokenSequence[int]) -> Lane:
        return self.scheduler.add(0, prompt)

    def holds(self, prompt: TokenSequence[int]) -> bool:
        """Whether all of a prompt lies in the cache."""
        wanted = list(prompt)
        return any([token for token, _ in held][: len(wanted)] == wanted for held in self.tokens.values())


def cache(
    ctx_tokens: int = 100,
    sequences: int = 8,
    *,
    batch_tokens: int = 64,
    can_cut: bool = True,
    shares_cells: bool = True,
    copy_token: float = SEED.copy_token,
    **keep: Any,
) -> Cache:
    shape = CacheShape(ctx_tokens, ctx_tokens, sequences, can_cut=can_cut, shares_cells=shares_cells)
    options = KeepOptions(**keep)
    books = CacheBooks(shape, options, FixedCosts(replace(SEED, copy_token=copy_token)))
    scheduler = Scheduler(books, batch_tokens, batch_tokens, chunk_tokens=options.chunk_tokens)
    return Cache(scheduler, options.saved_tokens)


def sizes(step: Step) -> list[int]:
    return [len(chunk.tokens) for _, chunk in step.chunks]


def test_a_prompt_is_cut_into_chunks_of_the_budget_and_only_the_last_wants_logits() -> None:
    kv = cache()
    kv.add(range(10))
    steps = [kv.advance(prefill_tokens=4) for _ in range(3)]
    assert [sizes(step) for step in steps] == [[4], [4], [2]]
    assert [chunk.rows for step in steps for _, chunk in step.chunks] == [0, 0, 1]


def test_a_step_is_what_the_caller_says_and_where_there_are_no_prompts_it_decodes() -> None:
    kv = cache()
    kv.add([1])
    kv.advance()
    kv.add(range(10, 18))
    assert kv.scheduler.load().prefill_tokens == 8
    steps = []
    for budget in (3, 0, 3, 3, 3):
        step = kv.scheduler.plan(budget)
        kv.scheduler.commit(step)
        steps.append((sizes(step), step.is_prefill))
        for lane, chunk in step.chunks:
            lane.tokens += [0] * chunk.rows
    assert steps == [([3], True), ([1], False), ([3], True), ([2], True), ([1, 1], False)]


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_a_short_prompt_is_not_behind_the_whole_of_a_long_one(steps: int) -> None:
    kv = cache(ctx_tokens=400)
    long = kv.add(range(100))
    for _ in range(steps):
        kv.advance(prefill_tokens=20)
    short = kv.add(range(200, 210))
    step = kv.advance(prefill_tokens=20)
    assert [(lane, len(chunk.tokens)) for lane, chunk in step.chunks] == [(short, 10), (long, 10)]


def test_a_long_prompt_waits_for_no_more_than_its_own_length_of_shorter_ones() -> None:
    kv = cache(ctx_tokens=1000, sequences=64, kept_tokens=0)
    long = kv.add(range(90))
    others = 0
    while not long.is_decoding:
        own = kv.add(range(1000 + 10 * others, 1010 + 10 * others))
        others += 1
        kv.advance(prefill_tokens=10, prefill_first=True)
        if own.is_decoding:
            kv.scheduler.remove(own)
    overtaken = others - 9
    assert 5 < overtaken <= 10, "9 of its own steps, as many of others, and the one that ran when it came"


def test_several_prompts_share_one_prefill_step_the_oldest_of_equal_ones_first() -> None:
    kv = cache()
    for start in (0, 100, 200):
        kv.add(range(start, start + 5))
    assert sizes(kv.advance(prefill_tokens=12)) == [5, 5, 2]


def test_a_prompt_waits_until_all_of_it_fits_and_who_is_behind_it_does_not_take_the_room() -> None:
    kv = cache(ctx_tokens=60)
    running = kv.add(range(20))
    kv.advance()
    kv.add(range(100, 130))  # 21 held + 16 of growth + 30 > 60
    kv.add(range(200, 231))  # is behind it
    for _ in range(4):
        assert sizes(kv.advance()) == [1]
    kv.scheduler.remove(running)
    assert sizes(kv.advance()) == [30]


def test_growth_past_the_pool_makes_the_youngest_step_back_and_the_oldest_goes_on() -> None:
    kv = cache(ctx_tokens=64)
    old, young = kv.add(range(20)), kv.add(range(100, 120))
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
    first = kv.add(range(30))
    kv.advance()
    kv.scheduler.remove(first)
    again = kv.add([*range(25), 99, 98])
    assert sizes(kv.advance()) == [2]
    assert (again.cached_tokens, again.found, first.found) == (25, "kept", None)
    assert kv.used == 30 + 2, "the shared cells are the same cells"


def test_a_full_hit_computes_the_last_token_only() -> None:
    kv = cache()
    kv.scheduler.remove(_computed(kv, range(30)))
    again = kv.add(range(30))
    assert sizes(kv.advance()) == [1]
    assert again.cached_tokens == 29


@pytest.mark.parametrize(("shares_cells", "begun"), [(True, 24), (False, 0)])
def test_what_is_left_of_a_step_begins_another_prompt_only_where_that_is_no_step_of_its_own(
    shares_cells: bool, begun: int
) -> None:
    kv = cache(ctx_tokens=400, shares_cells=shares_cells)
    first, second = kv.add(range(40)), kv.add(range(100, 200))
    step = kv.scheduler.plan(64, least_chunk=32)
    assert [(lane, len(chunk.tokens)) for lane, chunk in step.chunks] == [
        (first, 40),
        *([(second, begun)] if begun else []),
    ]


@pytest.mark.parametrize(
    ("first_tokens", "second_tokens", "together"),
    [(8, 8, [8, 8]), (40, 200, [40, 24]), (20, 25, [20]), (20, 200, [20])],
    ids=["as short", "a chunk that hardly counts", "twice as long", "many times as long"],
)
def test_what_shares_a_step_with_the_end_of_a_prompt_makes_it_hardly_longer(
    first_tokens: int, second_tokens: int, together: list[int]
) -> None:
    kv = cache(ctx_tokens=400, shares_cells=False)
    kv.add(range(first_tokens))
    second = kv.add(range(100, 100 + second_tokens))
    assert sizes(kv.scheduler.plan(64, least_chunk=16)) == together
    assert second.has_begun == (len(together) == 2), "nor is anything loaded for it before that step"


def test_a_cancelled_prefill_goes_on_where_it_stopped() -> None:
    kv = cache()
    first = kv.add(range(50))
    kv.advance(prefill_tokens=32)
    kv.scheduler.remove(first)
    again = kv.add(range(50))
    assert sizes(kv.advance()) == [18]
    assert again.cached_tokens == 32


def test_prompts_that_arrive_together_compute_what_they_share_once() -> None:
    kv = cache(ctx_tokens=400)
    prompts = [[*range(64), *range(100 * n + 100, 100 * n + 108)] for n in range(4)]
    lanes = [kv.add(prompt) for prompt in prompts]
    computed = [sum(sizes(kv.advance(prefill_tokens=32))) for _ in range(4)]
    assert computed[:3] == [32, 32, 4 * 8], "three wait for the first, then all end in one step"
    assert [lane.cached_tokens for lane in lanes] == [0, 64, 64, 64]
    assert [lane.found for lane in lanes] == [None, "running", "running", "running"]


def test_when_the_one_in_front_leaves_the_next_takes_over_what_it_had() -> None:
    kv = cache(ctx_tokens=400)
    first, second = (kv.add([*range(64), n]) for n in (100, 101))
    kv.advance(prefill_tokens=32)
    kv.scheduler.remove(first)
    assert sizes(kv.advance()) == [33]
    assert second.cached_tokens == 32


def test_the_least_recently_used_prefix_is_forgotten_first_and_shared_cells_cost_nothing() -> None:
    kv = cache(ctx_tokens=100)
    old = _computed(kv, range(100, 130))
    kv.scheduler.remove(old)
    kv.scheduler.remove(_computed(kv, range(200, 230)))
    kv.scheduler.remove(_computed(kv, range(100, 130)))  # used again
    kv.scheduler.remove(_computed(kv, range(300, 350)))  # needs room: 200.. goes
    assert kv.holds(range(100, 130))
    assert not kv.holds(range(200, 230))


def test_kept_prefixes_beyond_their_share_leave_but_for_the_newest() -> None:
    kv = cache(kept_tokens=15)
    running = _computed(kv, range(500, 510))
    for start in (100, 200, 300):
        kv.scheduler.remove(_computed(kv, range(start, start + 10)))
    free = [kv.books.free for _ in range(4) if kv.advance()]
    assert free == [79, 78, 77, 76], "10 for a prefix, 1 a step for the running one"
    assert kv.holds(range(300, 310))
    kv.scheduler.remove(running)
    assert kv.books.in_use == 0


def test_kept_prefixes_that_share_nothing_physically_are_counted_whole() -> None:
    kept = []
    for shares_cells in (True, False):
        kv = cache(shares_cells=shares_cells, kept_tokens=15)
        for own in (100, 200, 300):
            kv.scheduler.remove(_computed(kv, [*range(20), own]))
        _computed(kv, [*range(20), 400])
        for _ in range(4):
            kv.advance()
        kept.append(kv.books.kept)
    assert kept == [3, 1], "a running one holds what they begin with, or each has it for itself"


def test_what_leaves_the_cache_is_saved_and_loaded_by_who_begins_with_it() -> None:
    kv = cache(saved_tokens=80)
    kv.scheduler.remove(_computed(kv, range(100, 150)))
    kv.scheduler.remove(_computed(kv, range(200, 260)))  # no room beside the first one
    assert (kv.books.saved.total, kv.books.free) == (50, 40)
    partial = _computed(kv, [*range(100, 120), 1, 2])
    assert (partial.cached_tokens, partial.found, kv.loaded, kv.copied) == (20, "saved", 20, 0)
    assert 50 in map(len, kv.saved.values()), "it can be begun with again"
    kv.scheduler.remove(partial)
    whole = _computed(kv, [*range(100, 150), 3])
    assert whole.cached_tokens == 50
    assert 50 not in map(len, kv.saved.values()), "the sequence has all of it"


def test_the_least_recently_used_state_is_dropped_first_and_a_longer_one_replaces_its_prefixes() -> None:
    kv = cache(saved_tokens=100)
    for prompt in (range(100, 130), range(200, 230), range(100, 140)):
        kv.scheduler.remove(_computed(kv, prompt))
        kv.books.evict()
    assert [len(kv.books.saved.tokens(state)) for state in kv.books.saved] == [30, 40]
    kv.scheduler.remove(_computed(kv, range(300, 350)))
    kv.books.evict()
    assert [kv.books.saved.tokens(state)[0] for state in kv.books.saved] == [100, 300]


def test_a_state_that_is_being_loaded_outlasts_what_makes_room_for_it() -> None:
    """Its loading pushes a prefix out that begins like it, and for which there would be no room beside it."""
    kv = cache(saved_tokens=80)
    kv.scheduler.remove(_computed(kv, range(60)))
    kv.books.evict()
    kv.scheduler.remove(_computed(kv, range(200, 250)))
    begun = _computed(kv, [*range(40), 999])
    assert (begun.cached_tokens, kv.loaded) == (40, 40)
    assert [len(tokens) for tokens in kv.saved.values()] == [60]


def test_little_of_a_long_state_is_not_worth_loading() -> None:
    """Copying 60 tokens there and back takes longer than computing 8, and less than computing 16."""
    assert SEED.prefills[8] < 3 < SEED.prefills[16]
    for shared, cached in ((8, 0), (16, 16)):
        kv = cache(saved_tokens=100, copy_token=3 / 120)
        kv.scheduler.remove(_computed(kv, range(60)))
        kv.books.evict()
        assert _computed(kv, [*range(shared), 99]).cached_tokens == cached


def test_what_is_as_quickly_computed_as_copied_is_not_saved() -> None:
    kv = cache(saved_tokens=300, copy_token=1.0)
    kv.scheduler.remove(_computed(kv, range(50)))
    kv.books.evict()
    assert len(kv.books.saved) == 0
    assert _computed(kv, range(50)).cached_tokens == 0


def test_with_no_sequence_left_a_kept_prefix_gives_up_its_own() -> None:
    kv = cache(sequences=2)
    kv.scheduler.remove(_computed(kv, range(20)))
    kv.scheduler.remove(_computed(kv, range(100, 120)))
    for start in (200, 300):
        kv.add(range(start, start + 10))
    assert sizes(kv.advance()) == [10, 10]


def test_a_memory_that_cannot_be_cut_is_reused_only_whole() -> None:
    kv = cache(can_cut=False)
    kv.scheduler.remove(_computed(kv, range(30)))
    partial = kv.add([*range(25), 99])
    kv.advance()
    assert partial.cached_tokens == 0
    kv.scheduler.remove(partial)
    extended = kv.add([*range(30), 98, 97])
    kv.advance()
    assert extended.cached_tokens == 30


def test_without_reuse_nothing_stays() -> None:
    kv = cache(reuses_prefixes=False)
    kv.scheduler.remove(_computed(kv, range(30)))
    assert kv.books.free == 100


def test_drafts_go_along_as_far_as_there_is_room_and_a_wrong_one_is_cut_off() -> None:
    kv = cache()
    lane = _computed(kv, range(10))
    step = kv.scheduler.plan(64, {lane: [5, 6, 7]})
    [(_, chunk)] = step.chunks
    assert list(chunk.tokens) == [0, 5, 6, 7]
    assert chunk.rows == 4
    kv.apply(step)
    kv.scheduler.commit(step)
    kv.books.cut(lane, 12)
    lane.tokens += [5, 9]  # the first guess was right
    kv.advance()
    assert (kv.books.length(chunk.sequence), lane.computed, kv.used) == (13, 13, 13)


def _computed(kv: Cache, prompt: TokenSequence[int]) -> Lane:
    lane = kv.add(prompt)
    kv.advance(prefill_first=True)
    assert lane.is_decoding
    return lane


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
    kept_tokens=st.sampled_from([None, 0, 40]),
)
def test_every_sequence_ends_and_the_cache_is_never_overrun(
    requests: list[tuple[int, int, int, bool]],
    budget: int,
    slots: int,
    spare: int,
    can_cut: bool,
    saved_tokens: int,
    kept_tokens: int | None,
) -> None:
    """Prompts share prefixes of all lengths; some leave at their first token."""
    kv = cache(
        ctx_tokens=80,
        sequences=slots + spare,
        batch_tokens=16,
        can_cut=can_cut,
        saved_tokens=saved_tokens,
        kept_tokens=kept_tokens,
    )
    waiting = list(requests)
    goals: dict[Lane, int] = {}
    for _ in range(5000):
        while waiting and len(kv.scheduler.running) < slots:
            length, branch, output, leaves = waiting.pop(0)
            prompt = [*range(min(branch, length)), *(1000 + n for n in range(branch, length))]
            goals[kv.add(prompt)] = length + (1 if leaves else output)
        if not kv.scheduler.running:
            break
        step = kv.advance(budget)
        assert 0 < step.tokens <= 16
        for lane in list(kv.scheduler.running):
            if len(lane.tokens) >= goals[lane]:
                kv.scheduler.remove(lane)
    else:
        pytest.fail("a sequence never ended")
    assert kv.books.in_use == 0
    kv.apply(kv.scheduler.plan(1))
    assert kv.used == 80 - kv.books.free


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40)), max_size=6),
    st.integers(1, 40),
    st.sampled_from([0, 60]),
)
@settings(deadline=None)
def test_in_whole_chunks_the_steps_of_a_prompt_are_always_the_same_less_the_first(
    others: list[tuple[int, int]], tokens: int, saved_tokens: int
) -> None:
    """Prompts that begin alike and part sooner or later; every second still runs when the last one comes."""
    prompt = list(range(tokens))
    kv = cache(300, 12, chunk_tokens=8, kept_tokens=40, saved_tokens=saved_tokens, copy_token=1e-6)
    for number, (parts_after, length) in enumerate(others):
        shared = min(length, 9 * parts_after)
        lane = kv.add([*range(shared), *range(1000 * (number + 1), 1000 * (number + 1) + length - shared)])
        while not lane.is_decoding:
            kv.advance(prefill_tokens=3)
        kv.advance()
        if number % 2:
            kv.scheduler.remove(lane)
    lane = kv.add(prompt)
    chunks = []
    while not lane.is_decoding:
        step = kv.advance(prefill_tokens=3)
        if step.is_prefill:
            [(planned, chunk)] = step.chunks
            assert planned is lane
            chunks.append((chunk.position, len(chunk.tokens)))
    cold = [(start, min(8, tokens - start)) for start in range(0, tokens, 8)]
    assert chunks == cold[len(cold) - len(chunks) :]
    kv.scheduler.remove(lane)
    assert kv.books.find(kv.add(prompt)).length == (tokens - 1) // 8 * 8


def test_who_is_in_the_step_does_not_step_back_for_who_is_older_and_behind() -> None:
    kv = cache(ctx_tokens=75)
    streaming = kv.add(range(2))
    kv.advance()
    old = kv.add(range(100, 130))
    kv.advance(prefill_tokens=1, prefill_first=True)
    young = kv.add(range(200, 210))
    kv.advance(prefill_tokens=5, prefill_first=True)
    kv.advance(prefill_tokens=4, prefill_first=True)
    while kv.books.free > 1:
        kv.advance(prefill_tokens=0)
    assert (streaming.is_decoding, old.pending, young.pending) == (True, 29, 1)
    step = kv.advance(prefill_tokens=2, prefill_first=True)
    assert [lane for lane, _ in step.chunks] == [young]
    assert young.is_decoding


@pytest.mark.parametrize(
    ("budget", "chunks"),
    [(64, [64, 64, 62]), (150, [96, 94]), (180, [96, 94]), (190, [190]), (12, [12] * 15 + [10])],
)
def test_a_prompt_that_does_not_fit_is_computed_in_chunks_of_one_size(budget: int, chunks: list[int]) -> None:
    kv = cache(ctx_tokens=400, batch_tokens=512)
    lane = kv.add(range(190))
    seen = []
    while not lane.is_decoding:
        seen += sizes(kv.advance(prefill_tokens=budget))
    assert seen == chunks


@pytest.mark.parametrize(
    ("narrow_cell_ms", "chunks"), [(0.0016, [192, 64, 64, 40]), (0.0150, [192, 64, 104])]
)
def test_a_rest_that_would_take_longer_alone_than_with_what_is_before_it_is_taken_along(
    narrow_cell_ms: float, chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def prefill_ms(tokens: int, depth: float = 0.0) -> float:
        cell_ms = 0.0016 if tokens >= WIDE_TOKENS else narrow_cell_ms
        return 6.0 + tokens + tokens * (depth + tokens / 2) * cell_ms

    kv = cache(ctx_tokens=400, batch_tokens=512)
    monkeypatch.setattr(kv.books.costs, "prefill_ms", prefill_ms)
    lane = kv.add(range(360))
    seen = sizes(kv.advance(prefill_tokens=256))
    while not lane.is_decoding:
        seen += sizes(kv.advance(prefill_tokens=64))
    assert seen == chunks


def test_two_chunks_are_both_wide_rather_than_whole_tiles() -> None:
    kv = cache(ctx_tokens=400, batch_tokens=512)
    kv.add(range(130))
    assert sizes(kv.advance(prefill_tokens=100)) + sizes(kv.advance(prefill_tokens=100)) == [65, 65]


@given(st.integers(1, 2000), st.lists(st.integers(WIDE_TOKENS, 512), min_size=1))
def test_a_prompt_of_several_chunks_has_at_most_one_narrow_one_which_is_the_last(
    tokens: int, budgets: list[int]
) -> None:
    kv = cache(ctx_tokens=2100, batch_tokens=512)
    lane = kv.add(range(tokens))
    seen: list[int] = []
    while not lane.is_decoding:
        seen += sizes(kv.advance(prefill_tokens=budgets[len(seen) % len(budgets)]))
    assert all(chunk >= WIDE_TOKENS for chunk in seen[:-1])


def test_text_is_owed_while_a_token_was_only_part_of_a_character() -> None:
    kv = cache()
    kv.add(range(5))
    lane = kv.add(range(10, 15))
    kv.advance()
    owed = []
    for lane.unsaid in (0, 1, 3, 4):  # four of them are no character: something else holds the text back
        owed.append(kv.scheduler.load().owes_text)
    assert owed == [False, True, True, False]


def test_who_leaves_between_the_load_and_the_plan_is_in_no_step() -> None:
    kv = cache()
    gone, stays = kv.add(range(10)), kv.add(range(100, 120))
    kv.scheduler.load()
    kv.scheduler.remove(gone)
    assert [lane for lane, _ in kv.scheduler.plan(64).chunks] == [stays]
