"""Budgets and turns, by costs that were measured."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.engine.local.costs import LEAST_TOKENS, Costs
from corral.engine.local.options import EngineOptions
from corral.engine.local.pace import DECODE_SHARE, IDLE_STEP_MS, MOST_EXTRA, PROMISES, Load, Pace, Promise

CHUNKS = (4, 8, 16, 32, 63, 64, 128, 256, 512)
PROMISE = Promise(gap_ms=300.0, decode_share=0.1)


def measured(token_ms: float, decode_ms: float = 1e-3, promise: Promise = PROMISE) -> Pace:
    """On a machine where a prompt token costs the same in every chunk, and a decode step of any size too."""
    costs = Costs()
    for _ in range(100):
        for tokens in CHUNKS:
            costs.observe_prefill(tokens, 0, tokens * token_ms)
        for rows in (1, 4, 16):
            costs.observe_step(rows, 0, decode_ms)
    return Pace(promise, batch_tokens=512, costs=costs)


def budget(pace: Pace, *, decoding: int, prefilling: int = 1) -> int:
    return pace.prefill_tokens(Load(decoding, prefilling, prefill_tokens=10_000))


def test_the_budget_is_what_the_measured_speed_allows_down_to_a_whole_tile() -> None:
    for token_ms in (0.7, 1.7):
        tokens = budget(measured(token_ms), decoding=4)
        assert tokens % 16 == 0
        assert 0.9 < tokens * token_ms / PROMISE.gap_ms < 1.02


def test_where_less_than_a_tile_fits_the_budget_still_holds() -> None:
    assert budget(measured(token_ms=30), decoding=4) == 8
    assert budget(measured(token_ms=70), decoding=4) == 4


def test_behind_a_long_text_the_budget_is_smaller_from_the_first_step_on() -> None:
    pace = measured(token_ms=1.0)
    shallow, deep = (pace.prefill_tokens(Load(4, 1, 1000, prefill_depth=depth)) for depth in (0, 8000))
    assert deep < shallow


def test_the_decode_step_behind_it_is_part_of_the_gap() -> None:
    assert budget(measured(token_ms=1.0, decode_ms=60), decoding=16) == 240


def test_a_machine_that_decodes_slowly_has_time_for_prompts_too() -> None:
    assert budget(measured(token_ms=1.0, decode_ms=280), decoding=16) == DECODE_SHARE * 280 // 16 * 16


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
    assert budget(Pace(PROMISE, 512, costs), decoding=0) == 512


def test_short_prompts_share_a_gap_and_then_streams_have_their_turn() -> None:
    pace = measured(token_ms=1.0, decode_ms=20)
    assert budget(pace, decoding=4, prefilling=3) == 272
    pace.observe_prefill(60, 0, 60)
    assert budget(pace, decoding=4, prefilling=2) == 208, "what is left of the gap"
    pace.observe_prefill(100, 0, 100)
    assert budget(pace, decoding=4) == 0, "too little is left for a chunk that is worth its while"
    pace.observe_decode(4, 0, 20)
    assert budget(pace, decoding=4) == 272


def test_how_often_streams_wait_is_bounded_too() -> None:
    pace = measured(token_ms=1.0, decode_ms=10, promise=Promise(gap_ms=110, decode_share=1 / 3))
    pace.observe_prefill(100, 0, 100)
    decodes = 0
    while budget(pace, decoding=4) == 0:
        pace.observe_decode(4, 0, 10)
        decodes += 1
    assert decodes == 5, "50 ms after 100"


def test_steps_cut_short_hold_streams_up_like_others() -> None:
    pace = measured(token_ms=1.0, decode_ms=20)
    pace.observe_aborted(250)
    assert budget(pace, decoding=4) == 0


def test_a_gap_is_kept_where_steps_take_longer_than_was_learned() -> None:
    pace = measured(token_ms=1.0, decode_ms=20)
    gaps = []
    for _ in range(20):
        tokens = budget(pace, decoding=4)
        expected_ms = pace.costs.prefill_ms(tokens, 0)
        pace.observe_prefill(tokens, 0, 1.2 * expected_ms)  # and the costs run after it
        gaps.append(1.2 * expected_ms + 20)
        while not budget(pace, decoding=4):
            pace.observe_decode(4, 0, 20)
    assert gaps[0] > 1.1 * PROMISE.gap_ms
    assert max(gaps[5:]) <= 1.05 * PROMISE.gap_ms


def test_what_was_waited_with_nobody_there_is_not_made_up_for() -> None:
    pace = measured(token_ms=1.0, decode_ms=20)
    for _ in range(10):
        budget(pace, decoding=0)
        pace.observe_prefill(160, 0, 160)
    budget(pace, decoding=0)
    assert budget(pace, decoding=1) == 272


@pytest.mark.parametrize("promise", PROMISES.values(), ids=PROMISES)
@given(decode_ms=st.floats(0.5, 30), token_ms=st.floats(0.001, 3))
def test_a_promise_is_kept_whatever_steps_cost(promise: Promise, decode_ms: float, token_ms: float) -> None:
    """While prompts never end; on machines that compute the least chunk within the gap."""
    pace = measured(token_ms, decode_ms, promise)
    waited = prefill_ms = decoded_ms = 0.0
    gaps: list[float] = []
    while len(gaps) < 50:
        if tokens := budget(pace, decoding=4):
            pace.observe_prefill(tokens, 0, tokens * token_ms)
            waited += tokens * token_ms
            prefill_ms += tokens * token_ms
        else:
            pace.observe_decode(4, 0, decode_ms)
            gaps.append(waited + decode_ms)
            decoded_ms += decode_ms
            waited = 0.0
    assert max(gaps) <= 1.1 * max(promise.gap_ms, (1 + DECODE_SHARE) * decode_ms)
    owed_ms = promise.decode_share * (prefill_ms + decoded_ms) - decoded_ms
    assert owed_ms <= promise.decode_share * max(gaps), "for what was waited last, at most"


def test_a_gap_of_ones_own_takes_the_place_of_the_one_by_name() -> None:
    assert EngineOptions(slots=1).promise is PROMISES["balanced"]
    own = EngineOptions(slots=1, pace="smooth", step_budget_ms=50).promise
    assert own == Promise(50, PROMISES["smooth"].decode_share)


def test_who_has_half_a_character_does_not_wait_for_the_next_prompt_too() -> None:
    pace = measured(token_ms=1.0, decode_ms=20)
    owes = Load(4, 1, 10_000, owes_text=True)
    for _ in range(3):
        pace.observe_prefill(180, 0, 180)
        turns = 0
        while pace.prefill_tokens(owes) == 0:
            pace.observe_decode(4, 0, 20)
            turns += 1
        assert turns == 1 + MOST_EXTRA, (
            "one that is owed, and no more for somebody who never ends a character"
        )
    pace.observe_prefill(180, 0, 180)
    pace.observe_decode(4, 0, 20)
    assert pace.prefill_tokens(replace(owes, owes_text=False)) > 0
