"""What those who watch /status cost those who are served, and how soon they see a token.

Each function starts the servers it needs and returns a sheet. The readers are a process of their own
(watchers.py); some of them have stopped reading, and come back whenever they are sent away.
"""

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE

import msgspec
import trio

from benchrun import LineProcess, PromptSource, dot, http_round
from figures import Summary, Threshold, summarize
from loadclient import Chat, Habit, Target, chat
from serverproc import Bed, footprint, serve, subprocess_of
from sheet import Sheet, load_average, middle, number, spread
from watchers import Seen

HERE = Path(__file__).parent
STREAMS = 8
OUTPUT_TOKENS = 64
CROWDS = (0, 100, 1000)
STALLED = 50
GOALS = {100: 0.98, 1000: 0.85}
STEP_MS = 10
DELAY_S = 6.0
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


class DelayRow(msgspec.Struct, frozen=True):
    """One number of readers on the clock backend: from sampling to bytes, and memory per reader."""

    readers: int
    first_ms: Summary
    last_ms: Summary
    reader_kib: float | None


class Readers(LineProcess):
    """A crowd of readers that is attached."""

    async def seen(self) -> Seen:
        """What they have seen since they were asked last. Not cancel-safe."""
        return msgspec.json.decode(await self.ask(b""), type=Seen)


@asynccontextmanager
async def watching(target: Target, count: int, stalled: int = 0) -> AsyncIterator[Readers]:
    """`count` readers for as long as the block lasts."""
    command = [sys.executable, str(HERE / "watchers.py"), "--port", str(target.port)]
    command += ["--count", str(count), "--stalled", str(stalled)]
    async with subprocess_of(command, None, stdin=PIPE, stdout=PIPE) as process:
        readers = Readers(process)
        await readers.line()  # attached
        yield readers


async def crowd(bed: Bed) -> Sheet:
    """The throughput of streams beside readers of the status stream."""
    load = load_average()
    prompts = PromptSource()
    rates: dict[int, list[float]] = {count: [] for count in CROWDS}
    gap_s: dict[int, list[float]] = {count: [] for count in CROWDS}
    seen: dict[int, list[tuple[Seen, float]]] = {count: [] for count in CROWDS}
    broken: list[str] = []
    flags = ("--slots", str(STREAMS), "--status-content", "true")
    async with bed.server(*flags) as target:
        for repetition in range(-1, bed.repeats):  # -1 warms up and is not counted
            turns = CROWDS[repetition % len(CROWDS) :] + CROWDS[: repetition % len(CROWDS)]
            for count in turns if repetition >= 0 else (0,):
                async with _maybe_watching(target, count) as readers:
                    asked = prompts.take(STREAMS)
                    done = await http_round(target, asked, OUTPUT_TOKENS, pid=None)
                    if readers is not None:
                        seen[count].append((await readers.seen(), done.wall_s))
                dot()
                broken += done.broken
                if repetition >= 0:
                    rates[count].append(done.tokens_s)
                    gap_s[count] += done.gap_s
    rows = [_crowd_row(count, rates, gap_s[count], seen[count]) for count in CROWDS]
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
            Threshold(f"throughput with {row.readers} readers / none", GOALS[row.readers], row.ratio, False)
            for row in rows
            if row.readers in GOALS
        ],
        definitions=f"""\
{STREAMS} streams of {OUTPUT_TOKENS} tokens on the real model, beside readers of /status/events with content.
  The stalled ones have stopped reading and come back whenever they are sent away. / none: the rate divided by
  that with no reader, in the same repetition. Their CPU: of the readers' process, which takes it from the
  server where cores are few; 100 % is one core.""",
        load_average=load,
        broken=broken,
    )


@asynccontextmanager
async def _maybe_watching(target: Target, count: int) -> AsyncIterator[Readers | None]:
    if not count:
        yield None
        return
    async with watching(target, count, min(STALLED, count // 2)) as readers:
        await trio.sleep(SETTLE_S)
        await readers.seen()
        yield readers


def _crowd_row(
    count: int, rates: dict[int, list[float]], gap_s: Sequence[float], seen: Sequence[tuple[Seen, float]]
) -> CrowdRow:
    pairs = zip(rates[count], rates[0], strict=True)
    return CrowdRow(
        readers=count,
        stalled=min(STALLED, count // 2),
        tokens_s=middle(rates[count]),
        ratio=middle([rate / alone for rate, alone in pairs]),
        gap_ms=summarize(gap_s, scale=1e3),
        readers_events_s=middle([each.events / wall_s for each, wall_s in seen]),
        readers_cpu=middle([each.cpu_s / wall_s for each, wall_s in seen]),
        evicted=sum(each.evicted for each, _ in seen),
    )


async def delay(bed: Bed) -> Sheet:
    """From a token's sampling to its bytes at the first and the last reader; memory per idle reader."""
    load = load_average()
    rows = [await _delay_row(count) for count in (1, *(count for count in CROWDS if count))]
    del bed
    return Sheet(
        name="delay",
        columns=["readers", "first reader p50/p95 ms", "last reader p50/p95 ms", "KiB per idle reader"],
        cells=[
            [
                str(row.readers),
                spread(row.first_ms, 1),
                spread(row.last_ms, 1),
                number(row.reader_kib, 1),
            ]
            for row in rows
        ],
        rows=rows,
        goals=[],
        definitions=f"""\
From the sampling of a token to its bytes in the reader's process, which reads them in the text itself
  (serve_clock.py: the scripted backend, a step of {STEP_MS} ms, one stream). first, last: in the order in
  which the readers came. KiB: resident memory of the server with all readers attached and nothing to say,
  minus that with one, by their number.""",
        load_average=load,
    )


async def _delay_row(count: int, *, seconds: float = DELAY_S) -> DelayRow:
    command = f"{sys.executable} {HERE / 'serve_clock.py'} --port {{port}} --step-ms {STEP_MS}"
    [prompt] = PromptSource().take(1)
    async with serve(command) as server:
        async with watching(server.target, 1):
            await trio.sleep(SETTLE_S)
            alone = footprint(server.pid).rss_bytes
        async with watching(server.target, count) as readers:
            await trio.sleep(SETTLE_S)
            together = footprint(server.pid).rss_bytes
            dot()
            leaving = trio.CancelScope()
            async with trio.open_nursery() as nursery:
                request = Chat(prompt, 20_000, temperature=0.0, stream=True)
                nursery.start_soon(lambda: chat(server.target, request, Habit(), leaving=leaving))
                await trio.sleep(SETTLE_S)
                await readers.seen()  # not the first of it
                await trio.sleep(seconds)
                seen = await readers.seen()
                leaving.cancel()
            dot()
    return DelayRow(
        readers=count,
        first_ms=summarize(seen.first_s, scale=1e3),
        last_ms=summarize(seen.last_s, scale=1e3),
        reader_kib=(together - alone) / 1024 / (count - 1) if count > 1 else None,
    )
