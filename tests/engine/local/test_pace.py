"""Budgets and turns, by costs that were measured."""

from corral.engine.local.costs import LEAST_TOKENS, Costs
from corral.engine.local.pace import BURST, DECODE_SHARE, HOLD_MS, IDLE_STEP_MS, Load, Pace

CHUNKS = (4, 8, 16, 32, 64, 128, 256, 512)


def measured(token_ms: float, decode_ms: float = 1e-3) -> Pace:
    """On a machine where a prompt token costs the same in every chunk, and a decode step of any size too."""
    costs = Costs()
    for _ in range(100):
        for tokens in CHUNKS:
            costs.observe_prefill(tokens, 0, tokens * token_ms)
        for rows in (1, 4, 16):
            costs.observe_step(rows, 0, decode_ms)
    return Pace(step_budget_ms=30, batch_tokens=512, costs=costs)


def budget(pace: Pace, *, decoding: int, prefilling: int = 1) -> int:
    return pace.prefill_tokens(Load(decoding, prefilling, prefill_tokens=10_000))


def comes_first(pace: Pace, tokens: int, *, prefilling: int = 2) -> bool:
    return pace.prefill_first(Load(4, prefilling, prefill_tokens=tokens))


def test_the_budget_is_what_the_measured_speed_allows_down_to_a_whole_tile() -> None:
    assert budget(measured(token_ms=0.5), decoding=4) == 48
    assert budget(measured(token_ms=1.7), decoding=4) == 16


def test_where_less_than_a_tile_fits_the_budget_still_holds() -> None:
    assert budget(measured(token_ms=3), decoding=4) == 8
    assert budget(measured(token_ms=7), decoding=4) == 4


def test_behind_a_long_text_the_budget_is_smaller_from_the_first_step_on() -> None:
    pace = measured(token_ms=1.0)
    shallow, deep = (pace.prefill_tokens(Load(4, 1, 1000, prefill_depth=depth)) for depth in (0, 8000))
    assert deep < shallow == 16


def test_a_slow_batch_may_be_slowed_by_the_same_factor_as_a_fast_one() -> None:
    pace = measured(token_ms=1.0, decode_ms=42)
    assert budget(pace, decoding=16) == DECODE_SHARE * 42 // 16 * 16


def test_a_burst_of_prompts_gets_more_but_not_without_end() -> None:
    pace = measured(token_ms=1.0)
    assert budget(pace, decoding=4, prefilling=2) == 48
    assert budget(pace, decoding=1, prefilling=50) == BURST * 30 // 16 * 16


def test_a_slow_model_still_advances_and_a_fast_one_is_bounded() -> None:
    assert budget(measured(token_ms=1000), decoding=1) == LEAST_TOKENS
    assert budget(measured(token_ms=0.001), decoding=1) == 512


def test_with_nothing_decoding_a_step_takes_its_time() -> None:
    assert 0.9 < budget(measured(token_ms=1.0), decoding=0) / IDLE_STEP_MS <= 1
    assert budget(measured(token_ms=0.01), decoding=0) == 512


def test_with_nothing_decoding_a_chunk_is_never_so_small_that_its_tokens_are_dearer() -> None:
    costs = Costs()
    for _ in range(100):
        for tokens in CHUNKS:  # the weights are read once a step, in 1,000 ms
            costs.observe_prefill(tokens, 0, 1000 + 10 * tokens)
    assert budget(Pace(30, 512, costs), decoding=0) == 512


def test_a_short_burst_is_computed_first_and_a_long_one_takes_turns() -> None:
    pace = measured(token_ms=1.0, decode_ms=20)
    assert comes_first(pace, int(0.9 * HOLD_MS))
    assert not comes_first(pace, int(1.1 * HOLD_MS))
    assert not comes_first(pace, 10, prefilling=1), "beside one prompt streams keep their pace"


def test_streams_are_not_held_up_by_one_burst_after_the_other() -> None:
    pace = measured(token_ms=1.0, decode_ms=20)
    for _ in range(4):
        pace.observe_prefill(128, 0, 128)
    assert comes_first(pace, 64)
    assert not comes_first(pace, 128)
    pace.observe_decode(1, 0, 20)
    assert comes_first(pace, 128), "decoding makes up for it by and by"
    assert not comes_first(pace, 256)
    for _ in range(5):
        pace.observe_decode(1, 0, 20)
    assert comes_first(pace, 512)


def test_steps_cut_short_hold_streams_up_like_others() -> None:
    pace = measured(token_ms=1.0, decode_ms=20)
    for _ in range(10):
        pace.observe_aborted(HOLD_MS / 10)
    assert not comes_first(pace, 10)
