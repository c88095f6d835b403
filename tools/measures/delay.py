"""How soon those who watch /status see a token, and what memory they cost.

The server's text is the time at which each token was sampled (`scripted.py --script clock`), so the readers'
process (readers/crowd.py) knows the age of all that it reads.
"""

import msgspec
import trio

from tools.clients.asking import Asker
from tools.clients.habits import POLITE
from tools.clients.http1 import chat
from tools.clients.prompts import PromptSource
from tools.clients.target import Chat
from tools.measures.bed import Bed, dot
from tools.measures.plan import Plan
from tools.readers.attached import attached
from tools.readers.crowd import Group
from tools.servers.footprint import footprint
from tools.sheets.sheet import Sheet, number, spread
from tools.sheets.summary import Summary, summarize

STEP_MS = 10.0
SETTLE_S = 1.0


class DelayRow(msgspec.Struct, frozen=True):
    """One number of readers: from sampling to bytes, and memory per reader."""

    readers: int
    first_ms: Summary
    last_ms: Summary
    reader_kib: float | None


async def delay(bed: Bed, plan: Plan) -> Sheet:
    """From a token's sampling to its bytes at the first and the last reader; memory per idle reader."""
    rows = [await _row(bed, count, plan.watch_s) for count in (1, *plan.watchers)]
    return Sheet(
        name="delay",
        columns=["readers", "first reader p50/p95 ms", "last reader p50/p95 ms", "KiB per idle reader"],
        cells=[
            [
                str(row.readers),
                spread(row.first_ms, 1),
                spread(row.last_ms, 1),
                number(row.reader_kib, 1),
            ]
            for row in rows
        ],
        rows=rows,
        goals=[],
        definitions=f"""\
From the sampling of a token to its bytes in the reader's process, which reads them in the text itself
  (scripted.py --script clock: a step of {STEP_MS:g} ms, one stream). first, last: in the order in which the
  readers came. KiB: resident memory of the server with all readers attached and nothing to say, minus that
  with one, by their number.""",
    )


async def _row(bed: Bed, count: int, seconds: float) -> DelayRow:
    [prompt] = PromptSource().take(1)
    async with bed.scripted("--status-content=true", step_ms=STEP_MS, script="clock") as server:
        request = Asker(server.target).watch().decode()
        async with attached(server.target, Group(1, request)):
            await trio.sleep(SETTLE_S)
            alone = footprint(server.pid).rss_bytes
        group = Group(count, request, comes_back=True, is_timed=True)
        async with attached(server.target, group) as readers:
            await trio.sleep(SETTLE_S)
            together = footprint(server.pid).rss_bytes
            dot()
            leaving = trio.CancelScope()
            async with trio.open_nursery() as nursery:
                endless = Chat(prompt, 20_000, temperature=0.0, stream=True)
                nursery.start_soon(lambda: chat(server.target, endless, POLITE, leaving=leaving))
                await trio.sleep(SETTLE_S)
                await readers.seen()  # not the first of it
                await trio.sleep(seconds)
                [seen] = (await readers.seen()).groups
                leaving.cancel()
            dot()
    return DelayRow(
        readers=count,
        first_ms=summarize(seen.first_s, scale=1e3),
        last_ms=summarize(seen.last_s, scale=1e3),
        reader_kib=(together - alone) / 1024 / (count - 1) if count > 1 else None,
    )
