"""What is timed before the first request, on machines of which the speed is known."""

from collections.abc import Sequence

import pytest

from corral.engine.local.backend import Chunk
from corral.engine.local.costs import Costs, StepTime
from corral.engine.local.llama.rehearsal import BUDGET_S, Rehearsal


class Machine:
    """Takes `token_s` for each token of a step, and `step_s` for each step."""

    def __init__(self, token_s: float, step_s: float = 0.0) -> None:
        self.now_s = 0.0
        self.held: dict[int, int] = {}
        self._token_s = token_s
        self._step_s = step_s

    def compute(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            assert chunk.position == self.held.get(chunk.sequence, 0)
            self.held[chunk.sequence] = chunk.position + len(chunk.tokens)
        self.now_s += self._step_s + self._token_s * sum(len(chunk.tokens) for chunk in chunks)

    def rehearsed(self, most_rows: int = 8, most_tokens: int = 512) -> list[StepTime]:
        rehearsal = Rehearsal(self.compute, self.held.__delitem__, 1, lambda: self.now_s)
        return rehearsal.run(most_rows=most_rows, most_tokens=most_tokens)


def sizes(times: Sequence[StepTime], *, is_prefill: bool) -> list[int]:
    return [time.tokens for time in times if time.is_prefill == is_prefill]


@pytest.mark.parametrize("token_s", [1e-5, 1e-4, 1e-3, 4e-3, 0.01, 0.02])
def test_it_takes_no_longer_than_its_budget_and_leaves_nothing_behind(token_s: float) -> None:
    machine = Machine(token_s, step_s=2 * token_s)
    assert machine.rehearsed()
    assert machine.now_s <= BUDGET_S
    assert not machine.held


def test_a_slow_machine_computes_one_token() -> None:
    machine = Machine(token_s=3.0)
    assert machine.rehearsed() == [StepTime(1, False, 3000.0)]


def test_a_quick_one_computes_all_that_there_is_room_for() -> None:
    machine = Machine(token_s=1e-6)
    times = machine.rehearsed(most_rows=4, most_tokens=300)
    assert sizes(times, is_prefill=False) == [1, 2, 4]
    assert sizes(times, is_prefill=True) == [16, 64, 128, 256]


def test_what_a_prompt_costs_is_known_before_the_first() -> None:
    costs = Costs()
    costs.observe_times(Machine(token_s=5e-4, step_s=2e-3).rehearsed())
    assert costs.prefill_ms(128) == pytest.approx(66, rel=0.05)
    assert costs.step_ms(4) == pytest.approx(4, rel=0.05)
