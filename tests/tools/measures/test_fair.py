from tools.measures.bed import Bed
from tools.measures.fair import fair
from tools.measures.plan import QUICK


async def test_another_clients_request_is_among_the_next_to_be_served() -> None:
    sheet = await fair(Bed(), QUICK)
    assert sheet.broken == []
    [row] = sheet.rows
    assert row.before == QUICK.crowd_requests - 4
    assert row.wait_s > 0
    assert row.let_in_before < row.before
