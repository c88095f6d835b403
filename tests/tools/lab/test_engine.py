"""Rows of the laboratory, in virtual time: what the engine's policy does on curves that are known."""

from dataclasses import replace

import msgspec
import pytest

from corral.engine.local.options import EngineOptions
from corral.engine.local.pace import PROMISES
from tools.lab.engine import Lab, Record
from tools.lab.figures import LabRow, ideal_s, measure
from tools.lab.loads import MIXED, RETRIEVAL, SHORT, Ask, Listed, Load, closed
from tools.lab.machines import H100_8B, SMOLLM2_2_THREADS, Machine
from tools.lab.stream import Stream

FOUR_SLOTS = EngineOptions(slots=4)


def run(
    asks: list[Ask], *, machine: Machine = SMOLLM2_2_THREADS, slots: int = 5, repeats: float = 0.0
) -> Record:
    lab = Lab(machine, EngineOptions(slots=slots), repeats=repeats)
    record = lab.run(Listed(asks))
    lab.check_idle()
    return record


def by_client(record: Record, client: int) -> Stream:
    [stream] = [stream for stream in record.streams if stream.ask.client == client]
    return stream


def ttft_s(stream: Stream) -> float:
    return stream.said_s[0] - stream.ask.at_s


def row(machine: Machine, load: Load, share: float, requests: int) -> LabRow:
    measured = measure(machine, load, FOUR_SLOTS, share=share, requests=requests)
    return msgspec.structs.replace(measured, planner_us=0.0, planner_share=0.0)  # in true time


def test_the_same_seed_gives_the_same_hours() -> None:
    assert row(SMOLLM2_2_THREADS, MIXED, 0.8, 40) == row(SMOLLM2_2_THREADS, MIXED, 0.8, 40)


def test_everybody_is_answered_in_full_and_nothing_stays_in_the_cache() -> None:
    lab = Lab(SMOLLM2_2_THREADS, FOUR_SLOTS, repeats=0.4)
    record = lab.run(closed(RETRIEVAL, clients=12, each=3, turnaround_s=0.015, seed=1))
    lab.check_idle()
    assert [stream.said_tokens for stream in record.streams] == [48] * 36


def test_prompts_of_a_retrieval_load_use_the_machine_for_what_it_is_worth() -> None:
    lab = Lab(SMOLLM2_2_THREADS, FOUR_SLOTS)
    record = lab.run(closed(RETRIEVAL, clients=12, each=4, turnaround_s=0.015, seed=1))
    share = len(record.streams) * ideal_s(SMOLLM2_2_THREADS, 4, 390, 48) / record.ended_s
    assert 0.9 <= share <= 1.0


@pytest.mark.parametrize(
    ("machine", "longer"),
    [(SMOLLM2_2_THREADS, 1.7), (replace(SMOLLM2_2_THREADS, narrow_cell_us=None), 1.4)],
    ids=["narrow chunks dearer", "as dear as others"],
)
def test_streams_keep_their_pace_beside_a_long_prompt_and_it_comes_to_its_turn(
    machine: Machine, longer: float
) -> None:
    record = run(
        [*(Ask(0.0, 55, 400, client) for client in range(4)), Ask(3.0, 2000, 1, client=9)], machine=machine
    )
    alone = run([Ask(0.0, 2000, 1, client=9)], machine=machine)
    for client in range(4):
        stream = by_client(record, client)
        gaps_ms = [1e3 * (b - a) for a, b in zip(stream.said_s, stream.said_s[1:], strict=False)]
        assert max(gaps_ms) <= 1.1 * PROMISES["balanced"].gap_ms
    assert ttft_s(by_client(record, 9)) <= longer * ttft_s(by_client(alone, 9))


def test_a_short_prompt_is_not_behind_the_whole_of_a_long_one() -> None:
    record = run([Ask(0.0, 1632, 8, client=1), Ask(1.0, 18, 8, client=2)])
    assert ttft_s(by_client(record, 2)) <= 0.5


def test_more_load_than_can_be_served_does_not_make_it_serve_less() -> None:
    full, too_much = row(SMOLLM2_2_THREADS, SHORT, 1.0, 150), row(SMOLLM2_2_THREADS, SHORT, 1.5, 150)
    assert too_much.tokens_per_s >= 0.95 * full.tokens_per_s
    assert too_much.ttft_p50_s > full.ttft_p50_s


def test_at_half_of_its_capacity_the_median_request_finds_a_slot_at_once() -> None:
    half = row(SMOLLM2_2_THREADS, SHORT, 0.5, 150)
    assert half.ttft_p50_s <= 2 * ideal_s(SMOLLM2_2_THREADS, 1, 55, 1) + 0.05
    assert half.queue < 0.5


def test_the_costs_of_a_gpu_are_learned_from_the_seed_of_a_small_cpu() -> None:
    lab = Lab(H100_8B, EngineOptions(slots=32))
    lab.run(closed(RETRIEVAL, clients=32, each=4, turnaround_s=0.0, seed=1))
    truth = H100_8B.costs()
    for rows in (16, 32):
        assert 0.7 <= lab.pace.costs.step_ms(rows, 400.0) / truth.step_ms(rows, 400.0) <= 1.3


def test_a_text_that_repeats_itself_ends_sooner_by_its_drafts() -> None:
    new, old = (run([Ask(0.0, 200, 300)], repeats=repeats).ended_s for repeats in (0.0, 0.9))
    assert old <= 0.92 * new
