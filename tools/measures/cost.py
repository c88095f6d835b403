"""What a token costs outside llama.cpp: the server on the scripted engine, whose steps only sleep."""

from collections.abc import Sequence
from itertools import pairwise

from tools.measures.bed import Bed
from tools.measures.plan import Plan
from tools.measures.throughput import Row, Side, sheet_of, take_turns
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet

STREAMS = (1, 16, 64)
STEP_MS = 10.0
FLAT = 1.25
"""How much more a token may cost with more streams, and still be called flat."""


async def cost(bed: Bed, plan: Plan) -> Sheet:
    """CPU time of a token, by thread, at few streams and at many."""
    streams = plan.streams or STREAMS
    slots = str(plan.slots or max(streams))
    async with bed.scripted("--slots", slots, step_ms=STEP_MS) as server:
        rows = await take_turns(plan, streams, [Side("corral", server.target, server.pid)], None)
    return sheet_of("cost", rows, goals(rows))


def goals(rows: Sequence[Row]) -> list[Goal]:
    """A token costs no more with more streams. Pure."""
    return [
        Goal(f"cost of a token, {kind}, {row.streams} streams / {fewer.streams}", FLAT, ratio, True)
        for fewer, row in pairwise(rows)
        for kind, ratio in (
            ("event loop", _ratio(row.loop_us_per_token, fewer.loop_us_per_token)),
            ("engine thread", _ratio(row.engine_us_per_token, fewer.engine_us_per_token)),
        )
    ]


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None
