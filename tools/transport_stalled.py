"""Readers that stall: when they are evicted, and whether they hold up a shutdown."""

import msgspec
import trio

from benchrun import dot
from figures import Summary, Threshold, summarize
from sheet import Sheet, load_average, middle, number
from stalled import LOOK_S, RECEIVE_BUFFER_BYTES, Crowd
from transport_stage import UNLIMITED_LAG, Asker, Plan, Stage

STEP_MS = 10.0
SEND_TIMEOUT_S = 2.0
SLACK_S = 0.5
LIMIT_S = 20.0
ENDLESS_TOKENS = 3000
ROOMY = "--ctx-tokens=262144"
DRAIN_S = 1.0
EXIT_SLACK_S = 2.0


class EvictionRow(msgspec.Struct, frozen=True):
    """`evicted_s` runs from the last byte that could be written; `unread_bytes` is the median reader's."""

    evicted_s: Summary
    unread_bytes: float | None
    never: int


async def eviction(stage: Stage, plan: Plan) -> Sheet:
    """A reader stalls: how long it keeps its connection."""
    load = load_average()
    flags = (f"--slots={plan.stalled}", f"--send-timeout-s={SEND_TIMEOUT_S:g}", ROOMY, *UNLIMITED_LAG)
    async with stage.server(*flags, step_ms=STEP_MS) as server:
        crowd = Crowd(server.target, Asker(server.target).stream(ENDLESS_TOKENS))
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
            Threshold(
                "evicted s, the slowest (send_timeout_s + 0.5)", SEND_TIMEOUT_S + SLACK_S, seen.largest, True
            )
        ],
        definitions=f"""\
{plan.stalled} streams at a time, each with a receive buffer of {RECEIVE_BUFFER_BYTES} bytes, of which only
  the first bytes are read. The time runs from the moment at which what lies unread in both kernels last
  grew (/proc/net/tcp, every {LOOK_S * 1e3:g} ms): from then on the server could write no more. It ends when
  the client's socket tells that the server has closed. send_timeout_s is {SEND_TIMEOUT_S:g}; the limits on
  lagging are out of reach.""",
        load_average=load,
        broken=[f"{never} readers were not evicted within {LIMIT_S:g} s"] if never else [],
    )


class ExitRow(msgspec.Struct, frozen=True):
    """One shutdown: SIGTERM until the process has ended, in seconds, and its exit code."""

    exited_s: float
    code: int | None


async def shutdown(stage: Stage, plan: Plan) -> Sheet:
    """SIGTERM with stalled readers attached."""
    load = load_average()
    rows: list[ExitRow] = []
    flags = (
        f"--slots={plan.shutdown_stalled}",
        f"--drain-s={DRAIN_S:g}",
        "--send-timeout-s=60",
        ROOMY,
        *UNLIMITED_LAG,
    )
    for _ in range(plan.shutdowns):
        async with stage.server(*flags, step_ms=STEP_MS) as server:
            crowd = Crowd(server.target, Asker(server.target).stream(ENDLESS_TOKENS))
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
            Threshold(
                "SIGTERM until exit s, the slowest (drain_s + 2)", DRAIN_S + EXIT_SLACK_S, slowest_s, True
            ),
            Threshold("exits with another code than 0", 0, float(len(failed)), True),
        ],
        definitions=f"""\
From the signal to the end of the process, a server for each. drain_s is {DRAIN_S:g}. The readers stalled
  before, and neither send_timeout_s nor the limits on lagging end them first.""",
        load_average=load,
    )
