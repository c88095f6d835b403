from tools.measures.bed import Bed
from tools.measures.plan import QUICK
from tools.measures.viewer import MOST_KB_S, viewer


async def test_what_a_reader_takes_is_counted_and_text_costs_more_than_figures() -> None:
    sheet = await viewer(Bed(), QUICK)
    by = {(row.step_ms, row.sees_content): row for row in sheet.rows}
    assert len(by) == 4
    assert all(0 < row.kb_s < MOST_KB_S for row in sheet.rows)
    assert by[10.0, True].kb_s > by[10.0, False].kb_s
    assert sheet.goals_are_met
