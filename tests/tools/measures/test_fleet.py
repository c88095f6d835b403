import msgspec

from tools.lab.fleet import RoutingRow
from tools.measures.bed import Bed
from tools.measures.fleet import fleet
from tools.measures.plan import QUICK
from tools.measures.routing import full_index_bytes, goals, routing


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


def test_an_imbalance_that_is_chance_alone_is_no_fault_of_the_policy() -> None:
    def met(ours: float, by_work: float) -> bool:
        row = RoutingRow(9, "corral", 9, 1.0, 1.0, 1.0, 0.5, ours, 9.0, 9)
        rivals = [row, msgspec.structs.replace(row, policy="least work", imbalance=by_work)]
        [goal] = [goal for goal in goals(rivals) if goal.name.startswith("imbalance")]
        return goal.is_met

    assert met(1.25, 1.0)
    assert not met(1.3, 1.0)
    assert met(1.3, 1.2)
