from tools.measures.bed import Bed
from tools.measures.fleet import fleet
from tools.measures.plan import QUICK
from tools.measures.routing import full_index_bytes, routing


async def test_what_stands_in_front_of_engines_that_wait_can_be_measured() -> None:
    sheet = await fleet(Bed(), QUICK)
    assert sheet.broken == []
    figures = {row.what: row for row in sheet.rows}
    assert (figures["two replicas"].fleet or 0) > (figures["two replicas"].other or 0)
    for how in ("killed", "stopped"):
        assert figures[f"lost before the first byte, {how}"].fleet == 0
        assert figures[f"given up, {how}; and back"].other is not None


async def test_routing_can_be_measured_without_any_engine() -> None:
    sheet = await routing(Bed(), QUICK)
    assert [row.policy for row in sheet.rows] == ["corral", "least work", "most known"]
    assert full_index_bytes() < 2**25
