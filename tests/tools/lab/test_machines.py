import re

import pytest

from corral.engine.local.costs import Costs
from tools.lab.machines import MACHINES, SMOLLM2_2_THREADS, learned


@pytest.mark.parametrize("name", MACHINES)
def test_a_larger_step_never_takes_less(name: str) -> None:
    costs = MACHINES[name].costs()
    sizes = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    for depth in (0.0, 1000.0):
        steps = [costs.step_ms(size, depth) for size in sizes]
        prefills = [costs.prefill_ms(size, depth) for size in sizes]
        assert steps == sorted(steps)
        assert prefills == sorted(prefills)


def test_an_engines_own_table_gives_its_curves_back() -> None:
    costs = Costs()
    for size in (16, 64, 512):
        costs.observe_prefill(size, 300.0, 2.0 * SMOLLM2_2_THREADS.costs().prefill_ms(size, 300.0))
    for rows in (1, 4):
        costs.observe_step(rows, 200.0, 3.0 * SMOLLM2_2_THREADS.costs().step_ms(rows, 200.0))
    again = learned(f"what was learned of costs:\n{costs.table()}\n").costs()
    for size in (1, 4, 16):
        assert again.step_ms(size, 500.0) == pytest.approx(costs.step_ms(size, 500.0), rel=0.03)
    for size in (16, 64, 512):
        assert again.prefill_ms(size, 500.0) == pytest.approx(costs.prefill_ms(size, 500.0), rel=0.03)


def test_where_steps_became_slower_the_curves_stand_for_all_of_them() -> None:
    costs = Costs()
    times_ms = [20.0] * 40 + [60.0] * 8
    for ms in times_ms:
        costs.observe_prefill(64, 0.0, 2 * ms)
        costs.observe_step(4, 0.0, ms)
    machine = learned(costs.table()).costs()
    assert 48 * machine.step_ms(4, 0.0) == pytest.approx(sum(times_ms), rel=0.05)
    assert 48 * machine.prefill_ms(64, 0.0) == pytest.approx(2 * sum(times_ms), rel=0.05)
    assert costs.step_ms(4, 0.0) > 45.0


def test_a_machine_whose_attention_took_no_time_has_curves() -> None:
    table = Costs().table()
    flat = re.sub(
        r"decode [\d.]+, prefill [\d.]+, in narrow steps [\d.]+;",
        "decode 0.00, prefill 0.00, in narrow steps 0.00;",
        table,
    )
    assert flat != table
    costs = learned(flat).costs()
    assert costs.step_ms(4, 5000.0) == costs.step_ms(4, 0.0)
    assert costs.prefill_ms(16, 5000.0) == costs.prefill_ms(16, 0.0)


def test_a_log_without_a_table_is_no_machine() -> None:
    with pytest.raises(ValueError, match="no table"):
        learned("INFO: listening")
