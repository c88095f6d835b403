"""`loadtest.py --scenario transport`: the figures of the transport, one after the other."""

import sys
from collections.abc import Sequence

from rich.console import Console

from sheet import Sheet, load_average, load_text
from transport_beside import beside
from transport_events import events, idle
from transport_leaving import leaving
from transport_stage import Plan, Stage
from transport_stalled import eviction, shutdown

FIGURES = {
    "leaving": leaving,
    "eviction": eviction,
    "beside": beside,
    "idle": idle,
    "events": events,
    "shutdown": shutdown,
}


async def measure(
    names: Sequence[str], stage: Stage, plan: Plan, console: Console, sheets: list[Sheet]
) -> None:
    """Measure and print one figure after the other into `sheets`. Each ends its servers, also when cancelled.

    Raises SystemExit where a server does not come up, and groups of OSError, FramingError or
    CalledProcessError where one does not do what it should.
    """
    for name in names:
        print(f"{name}: load average {load_text(load_average())} ", end="", file=sys.stderr, flush=True)
        sheets.append(await FIGURES[name](stage, plan))
        print(file=sys.stderr)
        sheets[-1].show(console)


def holds(sheets: list[Sheet]) -> bool:
    """Whether every goal is met, and nothing went wrong on the way."""
    return all(goal.is_met for sheet in sheets for goal in sheet.goals) and not any(s.broken for s in sheets)
