"""What those who watch /status cost those who are served.

The readers are a process of their own (readers/crowd.py); some of them have stopped reading, and come back
whenever they are sent away.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import trio

from tools.clients.asking import Asker
from tools.clients.prompts import PromptSource
from tools.clients.target import Target
from tools.measures.bed import Bed, dot
from tools.measures.http_round import HttpRound, http_round
from tools.measures.plan import Plan
from tools.readers.attached import Readers, attached
from tools.readers.crowd import Group, Seen
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, middle, number, spread
from tools.sheets.summary import Summary, summarize

STREAMS = 8
GOALS = {100: 0.98, 1000: 0.85}
SETTLE_S = 1.0


class CrowdRow(msgspec.Struct, frozen=True):
    """One number of readers: medians of throughput, and of its ratio to that with none."""

    readers: int
    stalled: int
    tokens_s: float | None
    ratio: float | None
    gap_ms: Summary
    readers_events_s: float | None
    readers_cpu: float | None
    evicted: int


async def crowd(bed: Bed, plan: Plan) -> Sheet:
    """The throughput of streams beside readers of the status stream."""
    prompts = PromptSource()
    crowds = (0, *plan.watchers)
    done: dict[int, list[HttpRound]] = {count: [] for count in crowds}
    seen: dict[int, list[Seen]] = {count: [] for count in crowds}
    broken: list[str] = []
    async with bed.server("--slots", str(STREAMS), "--status-content", "true") as server:
        for repetition in range(-1, plan.repeats):  # -1 warms up and is not counted
            turns = crowds[repetition % len(crowds) :] + crowds[: repetition % len(crowds)]
            for count in turns if repetition >= 0 else (0,):
                async with _watching(server.target, count, _stalled(plan, count)) as readers:
                    asked = prompts.take(STREAMS)
                    round_ = await http_round(server.target, asked, plan.output_tokens, pid=None)
                    if readers is not None:
                        seen[count].append(await readers.seen())
                dot()
                broken += round_.broken
                if repetition >= 0:
                    done[count].append(round_)
    rows = [_row(count, _stalled(plan, count), done[count], done[0], seen[count]) for count in crowds]
    return Sheet(
        name="crowd",
        columns=[
            "readers",
            "stalled",
            "tokens/s",
            "/ none",
            "inter-token p50/p95 ms",
            "events/s read",
            "their CPU %",
            "sent away",
        ],
        cells=[
            [
                str(row.readers),
                str(row.stalled),
                number(row.tokens_s, 1),
                number(row.ratio, 3),
                spread(row.gap_ms, 1),
                number(row.readers_events_s, 0),
                number(row.readers_cpu, 1, 100),
                str(row.evicted),
            ]
            for row in rows
        ],
        rows=rows,
        goals=[
            Goal(f"throughput with {row.readers} readers / none", GOALS[row.readers], row.ratio, False)
            for row in rows
            if row.readers in GOALS
        ],
        definitions=f"""\
{STREAMS} streams of {plan.output_tokens} tokens on the real model, beside readers of /status/events with
  content. The stalled ones have stopped reading and come back whenever they are sent away. / none: the rate
  divided by that with no reader, in the same repetition. Their CPU: of the readers' process, which takes it
  from the server where cores are few; 100 % is one core.""",
        broken=broken,
    )


def _stalled(plan: Plan, count: int) -> int:
    return min(plan.watchers_stalled, count // 2)


@asynccontextmanager
async def _watching(target: Target, count: int, stalled: int) -> AsyncIterator[Readers | None]:
    """So many readers, settled, whose window has just begun; None where there are none."""
    if not count:
        yield None
        return
    group = Group(count, Asker(target).watch().decode(), stalled=stalled, comes_back=True)
    async with attached(target, group) as readers:
        await trio.sleep(SETTLE_S)
        await readers.seen()
        yield readers


def _row(
    readers: int,
    stalled: int,
    rounds: Sequence[HttpRound],
    without: Sequence[HttpRound],
    seen: Sequence[Seen],
) -> CrowdRow:
    pairs = zip(rounds, without, strict=True)
    return CrowdRow(
        readers=readers,
        stalled=stalled,
        tokens_s=middle([each.tokens_s for each in rounds]),
        ratio=middle([each.tokens_s / alone.tokens_s for each, alone in pairs]),
        gap_ms=summarize([gap_s for each in rounds for gap_s in each.gap_s], scale=1e3),
        readers_events_s=middle([each.groups[0].events / each.window_s for each in seen]),
        readers_cpu=middle([each.cpu_s / each.window_s for each in seen]),
        evicted=sum(each.groups[0].sent_away for each in seen),
    )
