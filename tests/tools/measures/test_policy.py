import math
from dataclasses import replace
from pathlib import Path

import pytest

from corral.engine.local.costs import Costs
from tools.lab.options import engine_options
from tools.measures.bed import Bed
from tools.measures.plan import QUICK
from tools.measures.policy import policy


async def test_the_laboratory_makes_a_row_of_every_load_and_it_takes_the_flags_of_the_server() -> None:
    [smooth] = (await policy(Bed(flags=("--step-budget-ms", "5")), QUICK)).rows
    [usual] = (await policy(Bed(), QUICK)).rows
    assert smooth.tokens_per_s > 0
    assert not math.isnan(usual.gap_p99_ms)
    assert smooth.prefill_tokens < usual.prefill_tokens


async def test_a_log_of_an_engine_is_a_machine(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"what was learned of costs:\n{Costs().table()}\n")
    sheet = await policy(Bed(), replace(QUICK, lab=replace(QUICK.lab, costs=log)))
    assert [row.machine for row in sheet.rows] == ["learned"]


async def test_a_log_without_costs_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("listening")
    with pytest.raises(SystemExit, match="no table"):
        await policy(Bed(), replace(QUICK, lab=replace(QUICK.lab, costs=log)))


def test_a_flag_that_the_server_does_not_know_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        engine_options(["--no-such-flag"], 4)
    assert "no-such-flag" in capsys.readouterr().err
