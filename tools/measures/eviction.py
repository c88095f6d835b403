"""A reader stalls: when it is evicted."""

import msgspec
import trio

from tools.clients.asking import Asker
from tools.measures.bed import UNLIMITED_LAG, Bed, dot
from tools.measures.plan import Plan
from tools.readers.stalled import LOOK_S, RECEIVE_BUFFER_BYTES, StalledReaders
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, middle, number
from tools.sheets.summary import Summary, summarize

STEP_MS = 10.0
SEND_TIMEOUT_S = 2.0
SLACK_S = 0.5
LIMIT_S = 20.0
ENDLESS_TOKENS = 3000
ROOMY = "--ctx-tokens=262144"


class EvictionRow(msgspec.Struct, frozen=True):
    """`evicted_s` runs from the last byte that could be written; `unread_bytes` is the median reader's."""

    evicted_s: Summary
    unread_bytes: float | None
    never: int


async def eviction(bed: Bed, plan: Plan) -> Sheet:
    """A reader stalls: how long it keeps its connection."""
    flags = (f"--slots={plan.stalled}", f"--send-timeout-s={SEND_TIMEOUT_S:g}", ROOMY, *UNLIMITED_LAG)
    async with bed.scripted(*flags, step_ms=STEP_MS) as server:
        crowd = StalledReaders(server.target, Asker(server.target).stream(ENDLESS_TOKENS))
        async with crowd.attached(plan.stalled, come_back=False):
            with trio.move_on_after(LIMIT_S):
                await crowd.watch(lambda: crowd.are_gone)
    dot()
    lasted_s = [stall.lasted_s for stall in crowd.stalls if stall.lasted_s is not None]
    seen = summarize(lasted_s)
    never = plan.stalled - seen.count
    row = EvictionRow(seen, middle([stall.unread_bytes for stall in crowd.stalls]), never)
    return Sheet(
        name="a reader stalls: evicted, its socket closed",
        columns=["readers", "p50 s", "p99 s", "largest s", "unread by it, bytes"],
        cells=[
            [
                str(seen.count),
                *(number(value, 2) for value in (seen.p50, seen.p99, seen.largest)),
                number(row.unread_bytes, 0),
            ]
        ],
        rows=[row],
        goals=[
            Goal(
                "evicted s, the slowest (send_timeout_s + 0.5)", SEND_TIMEOUT_S + SLACK_S, seen.largest, True
            )
        ],
        definitions=f"""\
{plan.stalled} streams at a time, each with a receive buffer of {RECEIVE_BUFFER_BYTES} bytes, of which only
  the first bytes are read. The time runs from the moment at which what lies unread in both kernels last
  grew (/proc/net/tcp, every {LOOK_S * 1e3:g} ms): from then on the server could write no more. It ends when
  the client's socket tells that the server has closed. send_timeout_s is {SEND_TIMEOUT_S:g}; the limits on
  lagging are out of reach.""",
        broken=[f"{never} readers were not evicted within {LIMIT_S:g} s"] if never else [],
    )
