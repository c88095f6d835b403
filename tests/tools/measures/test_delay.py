from tools.measures.bed import Bed
from tools.measures.delay import delay
from tools.measures.plan import QUICK


async def test_the_delay_is_that_of_the_first_and_of_the_last_reader() -> None:
    sheet = await delay(Bed(), QUICK)
    one, three = sheet.rows
    assert (one.readers, three.readers) == (1, 3)
    assert three.first_ms.count > 10
    assert three.last_ms.count > 10
    assert three.reader_kib is not None
