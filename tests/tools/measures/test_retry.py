from tools.measures.bed import Bed
from tools.measures.plan import QUICK
from tools.measures.retry import retry
from tools.servers.server import SCRIPTED_COMMAND


async def test_a_retry_computes_the_other_half() -> None:
    sheet = await retry(Bed(f"{SCRIPTED_COMMAND} --step-ms 2"), QUICK)
    assert not sheet.broken
    assert 0.3 < sheet.rows[0].share < 0.7
