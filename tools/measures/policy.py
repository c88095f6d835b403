"""The engine's policy without a model: the laboratory's rows, and how near they are to real runs.

Hours of load take seconds, so a change of the scheduler or of the pace shows what it does to every load at
once. Only where the laboratory foretells what was measured (`--against`) do its other rows mean something.
"""

from collections.abc import Sequence

import trio

from corral.engine.local.options import EngineOptions
from tools.lab.figures import LabRow, measure
from tools.lab.loads import LOADS
from tools.lab.machines import MACHINES
from tools.measures.bed import Bed, dot
from tools.measures.plan import Plan
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, number

WIDEST = 256
GOAL_SHARE = 0.02
LEAST_REQUESTS = 200
REQUESTS_A_SLOT = 4


def engine_options(flags: Sequence[str], slots: int) -> EngineOptions:
    """What `corral serve` would tell its engine with these flags. Raises SettingsError, SystemExit."""
    from argparse import ArgumentParser

    from corral.settings import add_flags, load
    from corral.wiring import pick  # it takes a second, and few figures need it

    parser = ArgumentParser(prog="bench policy --", allow_abbrev=False)
    source = add_flags(parser)
    settings = load({**source(parser.parse_args(list(flags))), "slots": slots})
    return pick(EngineOptions, settings)


async def policy(bed: Bed, plan: Plan) -> Sheet:
    """Every load on every machine, with so many slots, at these shares of what could be served."""
    rows: list[LabRow] = []
    for machine in plan.machines:
        for load in plan.loads:
            for slots in plan.lab_slots:
                options = engine_options(bed.flags, slots)
                for share in plan.shares:
                    rows.append(
                        measure(
                            MACHINES[machine],
                            LOADS[load],
                            options,
                            share=share,
                            requests=plan.lab_requests or max(LEAST_REQUESTS, REQUESTS_A_SLOT * slots),
                        )
                    )
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
{", ".join(f"{name}: {MACHINES[name].source}" for name in plan.machines)}.
  The engine's own planner, scheduler, pace, cache books, drafts and line of waiters, in virtual time. Of
  capacity: Poisson arrivals, by what the machine could serve with no turn lost (each prompt at the speed of
  the best chunk, each answer in steps of the best width). Queue: who waits for a slot, in the mean over time.
  Gap: between two steps that say something of a stream. Planner: CPU time of planning a step and of learning
  from it, by the step's virtual time.""",
        notes=[f"{sum(row.hours for row in rows):.1f} hours of load"],
    )


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
