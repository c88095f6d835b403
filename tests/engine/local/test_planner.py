"""The planner without a worker: steps are computed by saying so."""

from dataclasses import dataclass

import pytest

from corral.engine.local.backend import CacheShape
from corral.engine.local.drafts.drafter import Drafter
from corral.engine.local.drafts.lookup import PromptLookup
from corral.engine.local.lane import Lane
from corral.engine.local.options import EngineOptions
from corral.engine.local.planner import Generating, Planner, open_pace, open_scheduler
from corral.engine.local.scheduler import Scheduler


@dataclass
class Talker:
    """It would say 100 tokens."""

    lane: Lane
    tokens_left: int = 100
    can_be_forced: bool = False

    def fitting(self, draft: list[int]) -> list[int]:
        return draft


def planner(*, shares_cells: bool = True) -> tuple[Planner, Scheduler]:
    options = EngineOptions(slots=2)
    pace = open_pace(options, batch_tokens=64)
    shape = CacheShape(ctx_tokens=512, sequence_ctx_tokens=256, sequences=4, shares_cells=shares_cells)
    scheduler = open_scheduler(shape, options, pace.costs, batch_tokens=64, batch_rows=64)
    drafter = Drafter([PromptLookup()], pace.costs, most_rows=64)
    return Planner(scheduler, pace, drafter), scheduler


def test_a_step_that_was_aborted_is_planned_again() -> None:
    tried, scheduler = planner()
    running: dict[int, Generating] = {1: Talker(scheduler.add(1, range(20)))}
    step = tried.plan(running)
    tried.aborted(step, 10.0)
    again = tried.plan(running)
    assert [chunk for _, chunk in again.chunks] == [chunk for _, chunk in step.chunks]


def test_of_a_draft_only_what_was_right_stays() -> None:
    tried, scheduler = planner()
    lane = scheduler.add(1, [1, 2, 3, 4] * 8)
    running: dict[int, Generating] = {1: Talker(lane)}
    tried.computed(tried.plan(running), 10.0)
    lane.tokens.append(1)  # sampled from the prompt's last row
    step = tried.plan(running)
    [(_, chunk)] = step.chunks
    drafted = len(chunk.tokens) - 1
    assert list(chunk.tokens[:3]) == [1, 2, 3]
    tried.computed(step, 10.0)
    lane.tokens += [2, 9]  # the second of the draft was wrong
    tried.verified(lane, drafted, 1)
    assert lane.computed == 34
    assert lane.is_decoding


def test_what_waited_is_told_of_the_step_that_was_planned() -> None:
    tried, scheduler = planner()
    running: dict[int, Generating] = {key: Talker(scheduler.add(key, range(20))) for key in (1, 2)}
    tried.plan(running)
    assert (tried.load.decoding, tried.load.prefilling, tried.load.prefill_tokens) == (0, 2, 40)


@pytest.mark.parametrize(("shares_cells", "sizes"), [(True, [40, 24]), (False, [40])])
def test_a_prompt_is_not_begun_with_a_chunk_that_is_not_worth_a_step_where_caches_are_apart(
    shares_cells: bool, sizes: list[int]
) -> None:
    tried, scheduler = planner(shares_cells=shares_cells)
    first, second = scheduler.add(1, range(40)), scheduler.add(2, range(100, 160))
    step = tried.plan({1: Talker(first), 2: Talker(second)})
    assert [len(chunk.tokens) for _, chunk in step.chunks] == sizes


def test_what_a_step_is_likely_to_take_is_what_such_steps_took() -> None:
    tried, scheduler = planner()
    lane = scheduler.add(1, range(20))
    running: dict[int, Generating] = {1: Talker(lane)}
    prompt = tried.plan(running)
    tried.computed(prompt, 70.0)
    assert tried.expected_ms(prompt) == pytest.approx(70.0)
    lane.tokens.append(7)
    decode = tried.plan(running)
    tried.computed(decode, 9.0)
    assert tried.expected_ms(decode) == pytest.approx(9.0)
