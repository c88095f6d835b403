from tools.measures.bed import Bed
from tools.measures.plan import QUICK
from tools.measures.shared import shared
from tools.servers.server import SCRIPTED_COMMAND


async def test_a_shared_prompt_is_prefilled_once() -> None:
    sheet = await shared(Bed(f"{SCRIPTED_COMMAND} --step-ms 2"), QUICK)
    assert not sheet.broken
    [row] = sheet.rows
    assert row.prefilled_tokens < 0.3 * row.prompt_tokens
    assert row.apart_prefilled_tokens > 0.9 * row.apart_prompt_tokens
