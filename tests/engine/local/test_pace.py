from corral.engine.local.pace import (
    BURST,
    DECODE_SHARE,
    HOLD_MS,
    IDLE_STEP_MS,
    LEAST_IDLE_TOKENS,
    LEAST_TOKENS,
    Pace,
)


def measured(token_ms: float, decode_ms: float = 0.0) -> Pace:
    pace = Pace(step_budget_ms=30, batch_tokens=512)
    for _ in range(80):
        pace.observe_prefill(tokens=64, elapsed_ms=64 * token_ms)
        pace.observe_decode(elapsed_ms=decode_ms)
    return pace


def test_the_budget_is_what_the_measured_speed_allows_down_to_a_whole_tile() -> None:
    assert measured(token_ms=0.5).prefill_tokens(decoding=4, prefilling=1) == 48
    assert measured(token_ms=1.7).prefill_tokens(decoding=4, prefilling=1) == 16


def test_where_less_than_a_tile_fits_the_budget_still_holds() -> None:
    assert measured(token_ms=3).prefill_tokens(decoding=4, prefilling=1) == 8
    assert measured(token_ms=7).prefill_tokens(decoding=4, prefilling=1) == 4


def test_a_slow_batch_may_be_slowed_by_the_same_factor_as_a_fast_one() -> None:
    pace = measured(token_ms=1.0, decode_ms=40)
    assert pace.prefill_tokens(decoding=16, prefilling=1) == DECODE_SHARE * 40 // 16 * 16


def test_a_burst_of_prompts_gets_more_but_not_without_end() -> None:
    pace = measured(token_ms=1.0)
    assert pace.prefill_tokens(decoding=4, prefilling=2) == 48
    assert pace.prefill_tokens(decoding=1, prefilling=50) == BURST * 30 // 16 * 16


def test_a_slow_model_still_advances_and_a_fast_one_is_bounded() -> None:
    assert measured(token_ms=1000).prefill_tokens(decoding=1, prefilling=1) == LEAST_TOKENS
    assert measured(token_ms=0.001).prefill_tokens(decoding=1, prefilling=1) == 512


def test_with_nothing_decoding_a_step_takes_its_time() -> None:
    assert measured(token_ms=1.0).prefill_tokens(decoding=0, prefilling=1) == IDLE_STEP_MS
    assert measured(token_ms=50).prefill_tokens(decoding=0, prefilling=1) == LEAST_IDLE_TOKENS
    assert measured(token_ms=0.01).prefill_tokens(decoding=0, prefilling=1) == 512


def test_a_short_burst_is_computed_first_and_a_long_one_takes_turns() -> None:
    pace = measured(token_ms=1.0, decode_ms=20)
    assert pace.holds_decoding(prefilling=2, tokens=int(HOLD_MS) - 1)
    assert not pace.holds_decoding(prefilling=2, tokens=int(HOLD_MS) + 1)
    assert not pace.holds_decoding(prefilling=1, tokens=10), "beside one prompt streams keep their pace"


def test_streams_are_not_held_up_by_one_burst_after_the_other() -> None:
    pace = measured(token_ms=1.0, decode_ms=20)
    for _ in range(5):
        pace.observe_prefill(100, 100)
    assert pace.holds_decoding(prefilling=2, tokens=int(HOLD_MS) - 501)
    assert not pace.holds_decoding(prefilling=2, tokens=int(HOLD_MS) - 499)
    pace.observe_decode(20)
    assert pace.holds_decoding(prefilling=2, tokens=int(HOLD_MS) - 401)
    assert not pace.holds_decoding(prefilling=2, tokens=int(HOLD_MS) - 399), (
        "decoding makes up for it by and by"
    )
    for _ in range(5):
        pace.observe_decode(20)
    assert pace.holds_decoding(prefilling=2, tokens=int(HOLD_MS) - 1)


def test_steps_cut_short_hold_streams_up_like_others() -> None:
    pace = measured(token_ms=1.0, decode_ms=20)
    for _ in range(10):
        pace.observe_aborted(HOLD_MS / 10)
    assert not pace.holds_decoding(prefilling=2, tokens=10)
