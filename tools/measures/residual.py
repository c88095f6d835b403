"""How long a server is still busy with a client that has gone, as the next client notices it.

leaving.py measures the same promise from the other side: it asks corral's own /status/json. That is exact to
some 2 ms, goes 200 rounds in a minute on the scripted engine, and checks a p99. This one asks nothing of the
server but answers: it works on any, counts all that the next user waits for, and compares one with another.
"""

from itertools import product

import msgspec

from tools.clients.habits import PHASES, Departure, Leave
from tools.measures.bed import Bed, dot
from tools.measures.plan import Plan
from tools.measures.residual_probe import ResidualProbe
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, middle, number, spread
from tools.sheets.summary import Summary, summarize

WORDS = 1500
ATTEMPTS = 3


class ResidualRow(msgspec.Struct, frozen=True):
    """One cell; milliseconds. `void` rounds are those in which the victim was not in its phase."""

    cell: str
    residual_ms: Summary
    void: int


async def residual(bed: Bed, plan: Plan) -> Sheet:
    """How long a server with one slot is still busy with a client that has gone."""
    cells = [
        Departure(phase, leave, streams)
        for phase, streams, leave in product(PHASES, (True, False), (Leave.FIN, Leave.RST))
    ]
    seen: dict[Departure, list[float]] = {cell: [] for cell in cells}
    void = dict.fromkeys(cells, 0)
    idle_ms: list[float] = []
    async with bed.target("--slots", "1") as target:
        probe = ResidualProbe(target, victims=1, prompt_tokens=WORDS, output_tokens=2000)
        await probe.calibrate()
        for _ in range(plan.repeats):
            for cell in cells:
                for _ in range(ATTEMPTS):
                    await probe.calibrate_idle(1)
                    idle_ms.append(1e3 * probe.idle_s)
                    residual_s = await probe.measure(cell)
                    dot()
                    if residual_s is not None:
                        seen[cell].append(residual_s)
                        break
                    void[cell] += 1
    rows = [ResidualRow(str(cell), summarize(seen[cell], scale=1e3), void[cell]) for cell in cells]
    return Sheet(
        name="residual",
        columns=["the client leaves", "residual p50/p95 ms", "rounds", "void"],
        cells=[
            [row.cell, spread(row.residual_ms, 1), str(row.residual_ms.count), str(row.void)] for row in rows
        ],
        rows=rows,
        goals=[
            Goal("residual ms, the worst median", 30, _worst([row.residual_ms.p50 for row in rows]), True),
            Goal("residual ms, the worst p95", 60, _worst([row.residual_ms.p95 for row in rows]), True),
        ],
        definitions=f"""\
residual: from the client's leaving until a new one-token request of some 25 prompt tokens is answered,
  minus the median of the last such requests on the idle server, one before each round
  ({number(middle(idle_ms), 1)} ms). One slot; the victim's prompt has {WORDS:,} words. queue: the victim
  waits behind a decoding stream and leaves; 50 ms later that one leaves too, and the residual counts from
  there. void: rounds made again, because the victim had text too early or was answered before it left.""",
        broken=[f"never seen in its phase: {row.cell}" for row in rows if row.residual_ms.count == 0],
    )


def _worst(values: list[float | None]) -> float | None:
    """The largest; None as soon as one was not measured."""
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None
