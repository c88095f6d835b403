"""The engine's policy without a model: the laboratory's rows, and how near they are to real runs.

Hours of load take seconds, so a change of the scheduler or of the pace shows what it does to every load at
once. Only where the laboratory foretells what was measured (`--against`) do its other rows mean something.
"""

from itertools import product

import trio

from tools.lab.figures import LabRow, measure
from tools.lab.loads import LOADS
from tools.lab.machines import MACHINES, Machine, learned
from tools.lab.options import engine_options
from tools.measures.against import against
from tools.measures.bed import Bed, dot
from tools.measures.plan import LabPlan, Plan
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, number

WIDEST = 256
GOAL_SHARE = 0.02
LEAST_REQUESTS = 200
REQUESTS_A_SLOT = 4


async def policy(bed: Bed, plan: Plan) -> Sheet:
    """Every load on every machine, with so many slots, at these shares of what could be served."""
    lab = plan.lab
    if lab.is_against:
        return await against(bed, plan)
    rows: list[LabRow] = []
    machines = _machines(lab)
    for machine, load, slots in product(machines, lab.loads, lab.slots):
        options = engine_options(bed.flags, slots)
        requests = lab.requests or max(LEAST_REQUESTS, REQUESTS_A_SLOT * slots)
        for share in lab.shares:
            row = measure(machine, LOADS[load], options, share=share, requests=requests)
            rows.append(row)
            dot()
            await trio.lowlevel.checkpoint()
    widest = [row.planner_share for row in rows if row.slots == WIDEST]
    return Sheet(
        name="policy",
        columns=[
            "machine",
            "load",
            "slots",
            "of capacity",
            "tokens/s",
            "TTFT p50/p95 s",
            "gap p50/p95/p99/max ms",
            "queue, longest",
            "decode step ms: rows",
            "prefill step ms: tokens",
            "planner us",
            "of a step",
        ],
        cells=[_cells(row) for row in rows],
        rows=rows,
        goals=[Goal(f"planner's share of a step, {WIDEST} slots, most", GOAL_SHARE, max(widest), True)]
        if widest
        else [],
        definitions=f"""\
{"; ".join(f"{machine.name}: {machine.source}" for machine in machines)}.
  The engine's own planner, scheduler, pace, cache books, drafts and line of waiters, in virtual time. Of
  capacity: Poisson arrivals, by what the machine could serve with no turn lost (each prompt at the speed of
  the best chunk, each answer in steps of the best width). Queue: who waits for a slot, in the mean over time.
  Gap: between two steps that say something of a stream. Planner: CPU time of planning a step and of learning
  from it, by the step's virtual time.""",
        notes=[f"{sum(row.hours for row in rows):.1f} hours of load"],
    )


def _machines(lab: LabPlan) -> list[Machine]:
    """Raises SystemExit where a log says nothing of costs."""
    if lab.costs is None:
        return [MACHINES[name] for name in lab.machines]
    try:
        return [learned(lab.costs.read_text(errors="replace"))]
    except (OSError, ValueError) as error:
        raise SystemExit(f"bench: {lab.costs}: {error}") from None


def _cells(row: LabRow) -> list[str]:
    return [
        row.machine,
        row.load,
        str(row.slots),
        number(row.share, 1),
        number(row.tokens_per_s, 0),
        f"{row.ttft_p50_s:.2f} / {row.ttft_p95_s:.2f}",
        f"{row.gap_p50_ms:.0f} / {row.gap_p95_ms:.0f} / {row.gap_p99_ms:.0f} / {row.gap_longest_ms:.0f}",
        f"{row.queue:.1f}, {row.longest_queue}",
        f"{row.decode_ms:.1f}: {row.decode_rows:.1f}",
        f"{row.prefill_ms:.1f}: {row.prefill_tokens:.0f}",
        number(row.planner_us, 0),
        number(row.planner_share, 4),
    ]
