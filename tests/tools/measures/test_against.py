import pytest

from tools.measures.against import BEHIND, AgainstRow, behind_run, compare
from tools.measures.bed import Bed
from tools.servers.server import SCRIPTED_COMMAND


async def test_a_run_of_a_server_is_foretold_from_what_its_engine_learned() -> None:
    broken: list[str] = []
    bed = Bed(command=f"{SCRIPTED_COMMAND} --step-ms 20")
    rows = await compare(bed, BEHIND, 4, behind_run, broken)
    assert broken == []
    long = next(row for row in rows if row.figure == "the long one's TTFT s")
    assert long.error < 0.5  # steps that cost the same whatever is in them are no curve that it knows


def test_the_error_is_a_share_of_what_was_seen() -> None:
    assert AgainstRow("run", "figure", real=2.0, foretold=1.5).error == pytest.approx(0.25)
