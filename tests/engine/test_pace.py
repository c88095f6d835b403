from corral.engine.pace import GRANULE_TOKENS, Pace


def test_the_budget_approaches_what_the_measured_speed_allows() -> None:
    pace = Pace(step_budget_ms=30, idle_tokens=128)
    for _ in range(50):
        pace.observe(prefill_tokens=64, elapsed_ms=32)
    assert pace.prefill_tokens(has_decoding=True) == 48  # 60 tokens, down to a whole tile


def test_a_slow_model_still_advances_and_a_fast_one_is_bounded() -> None:
    slow, fast = Pace(30, 128), Pace(30, 128)
    for _ in range(50):
        slow.observe(prefill_tokens=16, elapsed_ms=16_000)
        fast.observe(prefill_tokens=128, elapsed_ms=0.1)
    assert slow.prefill_tokens(has_decoding=True) == GRANULE_TOKENS
    assert fast.prefill_tokens(has_decoding=True) == 128


def test_with_nothing_decoding_the_budget_is_the_whole_chunk() -> None:
    assert Pace(1, 128).prefill_tokens(has_decoding=False) == 128
