"""What is learned of the costs of steps, from machines that are not the one of the seed."""

import random
from collections.abc import Callable

import pytest

from corral.engine.local.costs import SEED, WIDE_TOKENS, Costs
from corral.engine.local.drafts.room import DraftRoom, Offer
from corral.engine.local.lane import Lane
from corral.engine.local.pace import Load, Pace, Promise

Machine = Callable[[int, float], float]
"""ms of a step, by its tokens and the cells that each of them looks at."""


def slow(tokens: int, depth: float) -> float:
    """The seed's own shape, on a machine three times as slow."""
    costs = Costs()
    return 3 * costs.step_ms(tokens, depth)


def gpu(tokens: int, depth: float) -> float:
    """Reading the weights takes all the time there is, up to some hundred tokens."""
    return max(9.5, tokens / 52) + tokens * depth * 1e-6


def learned(machine: Machine, rows: tuple[int, ...], depths: tuple[int, ...] = (100, 2000)) -> Costs:
    costs = Costs()
    costs.observe_prefill(512, 0, machine(512, 256))
    for _ in range(40):
        for own in rows:
            for depth in depths:
                costs.observe_step(own, depth, machine(own, depth))
    return costs


def test_the_first_step_gives_all_curves_their_scale() -> None:
    costs, seed = Costs(), Costs()
    costs.observe_prefill(64, 500, 5 * seed.prefill_ms(64, 500))
    assert costs.prefill_ms(16, 3000) == pytest.approx(5 * seed.prefill_ms(16, 3000))
    assert costs.step_ms(8, 1000) == pytest.approx(5 * seed.step_ms(8, 1000))
    assert costs.copy_ms(1000) == pytest.approx(5 * seed.copy_ms(1000))


def test_a_machine_with_its_own_curve_is_learned_whatever_the_seed_says() -> None:
    costs = learned(gpu, (1, 8, 64))
    for rows in (1, 8, 64):
        for depth in (100, 2000):
            assert costs.step_ms(rows, depth) == pytest.approx(gpu(rows, depth), rel=0.1)


def test_what_was_not_measured_lies_between_what_was() -> None:
    costs = learned(gpu, (1, 64))
    assert costs.step_ms(1) <= costs.step_ms(16) < 4 * gpu(16, 0), "the seed would say six times as much as 1"
    costs = learned(slow, (1, 16))
    for rows in (2, 4, 8, 12, 32):
        assert costs.step_ms(rows, 500) == pytest.approx(slow(rows, 500), rel=0.1)


def test_what_attention_takes_is_told_apart_from_the_rest() -> None:
    def shallow(tokens: int, depth: float) -> float:
        return 10 + tokens

    def deep(tokens: int, depth: float) -> float:
        return 10 + tokens + tokens * depth * 0.02

    assert learned(shallow, (1, 4)).step_ms(4, 8000) < 30
    assert learned(deep, (1, 4)).step_ms(4, 8000) == pytest.approx(deep(4, 8000), rel=0.2)


def test_a_larger_step_never_takes_less_time() -> None:
    costs, source = Costs(), random.Random(1)
    for _ in range(500):
        rows = source.randint(1, 40)
        costs.observe_step(rows, 0, source.uniform(0.3, 3) * gpu(rows, 0))
    times = [costs.step_ms(rows) for rows in range(1, 600)]
    assert times == sorted(times)


def test_one_step_that_was_disturbed_changes_little() -> None:
    costs = learned(gpu, (1, 8))
    costs.observe_step(8, 100, 100 * gpu(8, 100))
    assert costs.step_ms(8, 100) < 1.5 * gpu(8, 100)


def test_a_machine_that_becomes_slower_is_followed_also_where_nothing_is_measured_any_more() -> None:
    costs = learned(gpu, (1, 8, 64))
    for _ in range(3000):
        costs.observe_step(8, 100, 3 * gpu(8, 100))
    assert costs.step_ms(8, 100) == pytest.approx(3 * gpu(8, 100), rel=0.05)
    assert costs.step_ms(1, 100) < costs.step_ms(8, 100)
    assert costs.step_ms(64, 100) > 2 * gpu(64, 100)


def test_what_was_measured_once_while_the_machine_was_slow_does_not_hold_up_what_is_measured_now() -> None:
    costs = Costs()
    for _ in range(3):
        costs.observe_step(3, 70, 45.0)
    for _ in range(5):
        costs.observe_step(4, 70, 46.0)
    for _ in range(40):
        costs.observe_step(4, 70, 15.0)
    assert costs.step_ms(4, 70) == pytest.approx(15, rel=0.35)
    assert costs.step_ms(3, 70) <= costs.step_ms(4, 70)
    assert costs.step_ms(8, 70) < 40


def test_the_table_shows_what_was_measured() -> None:
    table = learned(gpu, (1, 8)).table().splitlines()
    row = {line.split()[0]: line for line in table[1:-1]}
    assert "9.5*" in row["1"]
    assert "*" not in row["4"]
    assert "*" in row["512"], "as a prefill"


@pytest.mark.parametrize("most", [16, 100, 512])
def test_a_budget_is_kept_as_nearly_as_tiles_allow(most: int) -> None:
    costs = Costs()
    for budget_ms in (1, 20, 35, 70, 160, 10_000):
        tokens = costs.prefill_tokens(budget_ms, 300, most)
        assert 4 <= tokens <= most
        assert tokens == 4 or costs.prefill_ms(tokens, 300) <= budget_ms
        assert tokens == most or costs.prefill_ms(tokens + 16, 300) > budget_ms


# Attention that is computed in tiles from 64 tokens on


def tiled(tokens: int, depth: float) -> float:
    """Two threads of a Xeon with AMX, as measured."""
    kernels = 6.0 + 0.85 * tokens if tokens >= WIDE_TOKENS else 8.0 + 1.3 * tokens
    return kernels + tokens * (depth + tokens / 2) * (0.0016 if tokens >= WIDE_TOKENS else 0.0150)


def test_what_narrow_steps_take_says_nothing_of_wide_ones() -> None:
    costs = Costs()
    for depth in range(0, 400, 16):
        costs.observe_prefill(16, depth, tiled(16, depth))
    assert costs.prefill_ms(16, 350) == pytest.approx(tiled(16, 350), rel=0.25)
    for depth in range(0, 400, 16):
        costs.observe_prefill(48, depth, tiled(48, depth))
        costs.observe_prefill(64, depth, tiled(64, depth))
    assert costs.prefill_ms(64, 350) == pytest.approx(tiled(64, 350), rel=0.15)
    assert costs.prefill_ms(63, 350) == pytest.approx(tiled(63, 350), rel=0.25)


def test_what_decode_steps_look_at_says_what_a_narrow_rest_takes_deep_in_a_prompt() -> None:
    costs = Costs()
    for depth in range(0, 512, 64):
        costs.observe_prefill(64, depth, tiled(64, depth))
    for depth in (100, 2000) * 20:
        costs.observe_step(4, depth, tiled(4, depth))
    assert costs.prefill_ms(48, 1500) == pytest.approx(tiled(48, 1500), rel=0.3)
    costs.observe_prefill(16, 400, tiled(16, 400))
    assert costs.prefill_ms(16, 1500) == pytest.approx(tiled(16, 1500), rel=0.15)
    for depth in (100, 2000) * 20:
        costs.observe_prefill(48, depth, 100 + 1e-3 * 48 * depth)
    measured_ms = 100 + 1e-3 * 48 * 1500
    assert costs.prefill_ms(48, 1500) == pytest.approx(measured_ms, rel=0.3), "what was measured counts"


@pytest.mark.parametrize("first", [4, 16, 48])
def test_chunks_are_wide_however_small_the_first_ones_were(first: int) -> None:
    pace = Pace(Promise(250, 0.1), batch_tokens=512)
    for _ in range(20):
        pace.observe_prefill(first, 300, tiled(first, 300))
    chunks = []
    for _ in range(20):
        pace.observe_decode(4, 400, 45.0)
        depth = 0
        while depth < 390:
            tokens = pace.prefill_tokens(Load(4, 1, 390 - depth, decode_depth=400, prefill_depth=depth))
            if tokens:
                pace.observe_prefill(tokens, depth, tiled(tokens, depth))
                depth += tokens
                chunks.append(tokens)
            else:
                pace.observe_decode(4, 400, 45.0)
    assert min(chunks[-20:]) >= 96


def test_a_chunk_at_full_speed_is_wide() -> None:
    assert Costs().full_speed_tokens(512) == WIDE_TOKENS


def test_where_less_is_hardly_quicker_a_chunk_is_wide_even_if_it_takes_longer() -> None:
    costs = Costs()
    for tokens in (16, 64, 128) * 20:
        for depth in (0, 500, 1000, 3000):
            costs.observe_prefill(tokens, depth, tiled(tokens, depth))
    assert tiled(64, 3000) > 250
    assert costs.prefill_tokens(250, 3000, 512) == 64
    assert costs.prefill_tokens(20, 0, 512) < 16, "here it is quicker"


# What follows from a GPU's curve


def draft_tokens(costs: Costs, lanes: int, chance: float) -> int:
    """How long a draft is tried for one of so many lanes."""
    room = DraftRoom(costs, lanes=lanes, depth=500, most_rows=512)
    return sum(room.share([Offer(Lane.of(0, [1]), chance, 100)]).values())


def test_where_a_wider_step_costs_nothing_drafts_are_longer_also_beside_many() -> None:
    cpu, fast = Costs(), learned(gpu, (1, 8, 64))
    assert draft_tokens(fast, 1, 0.7) > draft_tokens(cpu, 1, 0.7) > 0
    assert [draft_tokens(cpu, lanes, 0.85) for lanes in (8, 16, 32)] == [0, 0, 0]
    assert min(draft_tokens(fast, lanes, 0.85) for lanes in (8, 16, 32)) >= 8


def test_where_a_large_chunk_costs_no_more_prefill_comes_in_large_chunks() -> None:
    chunks = {}
    for name, costs in (("cpu", Costs()), ("gpu", learned(gpu, (1, 8, 64)))):
        pace = Pace(Promise(30, 0.5), batch_tokens=512, costs=costs)
        chunks[name] = [pace.prefill_tokens(Load(decoding, 1, 5000)) for decoding in (0, 8)]
    assert chunks["gpu"] == [512, 512]
    assert chunks["cpu"][0] < 200
    assert chunks["cpu"][1] < 50


def test_where_attention_is_quick_more_may_stay_in_the_cache() -> None:
    cpu, fast = Costs(), learned(gpu, (1, 8, 64))
    assert cpu.idle_cells(1, 1 / 3) > cpu.idle_cells(8, 1 / 3) > 100
    assert fast.idle_cells(8, 1 / 3) > 20 * cpu.idle_cells(8, 1 / 3)


def test_copying_is_learned_by_itself() -> None:
    costs = learned(gpu, (1,))
    for _ in range(20):
        costs.observe_copy(1000, 50)
    assert costs.copy_ms(200) == pytest.approx(10)
    assert SEED.copy_token * 1000 * gpu(1, 0) < 50 / 2, "the seed would have said less than half"
