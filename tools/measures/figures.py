"""Every figure by its name."""

import os
import sys
from collections.abc import Awaitable, Callable

import msgspec
from rich.console import Console

from tools.measures.bed import Bed
from tools.measures.beside import beside
from tools.measures.cost import cost
from tools.measures.crowd import crowd
from tools.measures.delay import delay
from tools.measures.drafting import drafting
from tools.measures.events import events
from tools.measures.eviction import eviction
from tools.measures.fair import fair
from tools.measures.fleet import fleet
from tools.measures.idle import idle
from tools.measures.leaving import leaving
from tools.measures.load import load
from tools.measures.pace import pace
from tools.measures.plan import Plan
from tools.measures.policy import policy
from tools.measures.residual import residual
from tools.measures.retry import retry
from tools.measures.routing import routing
from tools.measures.shared import shared
from tools.measures.shutdown import shutdown
from tools.measures.steps import steps
from tools.measures.structure import structure
from tools.measures.throughput import compared, raw, serve
from tools.measures.viewer import viewer
from tools.measures.waits import waits
from tools.sheets.sheet import Sheet, load_text

Figure = Callable[[Bed, Plan], Awaitable[Sheet]]

ENGINE: dict[str, Figure] = {
    "serve": serve,
    "raw": raw,
    "all": compared,
    "cost": cost,
    "residual": residual,
    "retry": retry,
    "shared": shared,
    "pace": pace,
    "drafting": drafting,
    "crowd": crowd,
    "delay": delay,
    "viewer": viewer,
    "steps": steps,
    "structure": structure,
    "waits": waits,
    "fair": fair,
    "load": load,
    "policy": policy,
    "fleet": fleet,
    "routing": routing,
}
"""What bench.py measures: the server and its engine."""

TRANSPORT: dict[str, Figure] = {
    "leaving": leaving,
    "eviction": eviction,
    "beside": beside,
    "idle": idle,
    "events": events,
    "shutdown": shutdown,
}
"""What `loadtest.py --scenario transport` measures: what corral promises of its connections."""


async def measure(name: str, figure: Figure, bed: Bed, plan: Plan, console: Console) -> Sheet:
    """Measure one and print it. It ends its servers, also when it is cancelled.

    Raises SystemExit where a server does not come up, and OSError, FramingError or ProcessEnded, or groups of
    them, where one does not do what it should.
    """
    average = os.getloadavg()
    print(f"{name}: load average {load_text(average)} ", end="", file=sys.stderr, flush=True)
    sheet = msgspec.structs.replace(await figure(bed, plan), load_average=average)
    print(file=sys.stderr)
    sheet.show(console)
    return sheet
