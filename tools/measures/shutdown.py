"""Whether readers that stall hold up a shutdown."""

import msgspec
import trio

from tools.clients.asking import Asker
from tools.measures.bed import UNLIMITED_LAG, Bed, dot
from tools.measures.plan import Plan
from tools.readers.stalled import StalledReaders
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, number

STEP_MS = 10.0
DRAIN_S = 1.0
EXIT_SLACK_S = 2.0
LIMIT_S = 20.0
ENDLESS_TOKENS = 3000
ROOMY = "--ctx-tokens=262144"


class ExitRow(msgspec.Struct, frozen=True):
    """One shutdown: SIGTERM until the process has ended, in seconds, and its exit code."""

    exited_s: float
    code: int | None


async def shutdown(bed: Bed, plan: Plan) -> Sheet:
    """SIGTERM with stalled readers attached."""
    rows: list[ExitRow] = []
    flags = (
        f"--slots={plan.shutdown_stalled}",
        f"--drain-s={DRAIN_S:g}",
        "--send-timeout-s=60",
        ROOMY,
        *UNLIMITED_LAG,
    )
    for _ in range(plan.shutdowns):
        async with bed.scripted(*flags, step_ms=STEP_MS) as server:
            crowd = StalledReaders(server.target, Asker(server.target).stream(ENDLESS_TOKENS))
            async with crowd.attached(plan.shutdown_stalled, come_back=False):
                asked_s = trio.current_time()
                server.process.terminate()
                with trio.move_on_after(LIMIT_S):
                    await server.process.wait()
                rows.append(ExitRow(trio.current_time() - asked_s, server.process.returncode))
        dot()
    slowest_s = max(row.exited_s for row in rows)
    failed = [row for row in rows if row.code != 0]
    return Sheet(
        name=f"SIGTERM with {plan.shutdown_stalled} stalled readers attached",
        columns=["exited after s", "exit code"],
        cells=[[number(row.exited_s, 2), str(row.code)] for row in rows],
        rows=rows,
        goals=[
            Goal("SIGTERM until exit s, the slowest (drain_s + 2)", DRAIN_S + EXIT_SLACK_S, slowest_s, True),
            Goal("exits with another code than 0", 0, float(len(failed)), True),
        ],
        definitions=f"""\
From the signal to the end of the process, a server for each. drain_s is {DRAIN_S:g}. The readers stalled
  before, and neither send_timeout_s nor the limits on lagging end them first.""",
    )
