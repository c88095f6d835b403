import math

import pytest

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


def test_a_flag_that_the_server_does_not_know_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        engine_options(["--no-such-flag"], 4)
    assert "no-such-flag" in capsys.readouterr().err
