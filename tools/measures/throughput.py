"""Throughput over HTTP against the same batch loop with no server, and against another server, in one run.

The server runs as a subprocess, the client in this process, the raw loop in a third. Rounds alternate
(raw, corral, peer, raw, ...), each with prompts of its own that all get; who begins moves on with every
repetition. Ratios are taken within a repetition and their median is printed, because a shared machine
changes its speed by the minute.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import msgspec

from tools.clients.prompts import PromptSource
from tools.clients.target import Target
from tools.measures.bed import Bed, dot
from tools.measures.http_round import HttpRound, http_round
from tools.measures.plan import Plan
from tools.servers.yardstick import RoundResult, Yardstick, yardstick
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, middle, number, spread
from tools.sheets.summary import Summary, summarize

STREAMS = (1, 8, 16)
WARM_UP_TOKENS = 8
PEER_GOALS = {1: 1.0, 8: 1.15, 16: 1.15}
COLUMNS = [
    "",
    "streams",
    "raw tok/s",
    "raw step ms",
    "HTTP tok/s",
    "/ raw",
    "/ peer",
    "TTFT ms",
    "inter-token ms",
    "loop %",
    "engine %",
    "loop us/tok",
    "engine",
    "server",
    "in (cached) / out",
]
DEFINITIONS = """\
tokens/s: completion tokens of all streams (from the usage chunk) / wall time from before the first connect to
  after the last end, prefill included. raw: the same prompts, prefilled one after the other, then decoded
  together, picked by argmax; no trio, no HTTP, no text. raw step: one llama_decode of that loop.
  / raw, / peer: tokens/s divided by theirs, in the same repetition; of the rows of APIs, by Chat's.
TTFT (p50 / p95): last byte of the request sent to the first delta with text. inter-token (p50 / p95): between
  deltas of one stream.
loop / engine %: CPU time of the server's main thread / of all its other threads (llama.cpp's included), by
  wall time. 100 % is one core.
us/tok: CPU time / completion tokens. loop: the main thread, all that the event loop does for a token. engine:
  the engine's thread and its helpers. server: all threads, with those that render and tokenize prompts.
  `cost` runs the scripted backend, whose steps sleep 10 ms, so these are all that a token costs outside
  llama.cpp; prompts are longer there, because a byte is a token.
in (cached) / out: tokens per request. The prompts are new, and share with others their first tokens only."""


class Row(msgspec.Struct, frozen=True):
    """One line of the table: medians over the repetitions, percentiles over all tokens."""

    label: str
    streams: int
    raw_tokens_s: float | None
    raw_step_ms: float | None
    http_tokens_s: float | None
    ratio: float | None
    peer_ratio: float | None
    ttft_ms: Summary
    gap_ms: Summary
    loop_share: float | None
    engine_share: float | None
    loop_us_per_token: float | None
    engine_us_per_token: float | None
    server_us_per_token: float | None
    client_us_per_token: float | None
    prompt_tokens: float | None
    cached_tokens: float | None
    output_tokens: float | None
    broken: list[str]


@dataclass(slots=True)
class Side:
    """A server that takes part, and its rounds so far. `pid` None: it is not ours to look into."""

    label: str
    target: Target
    pid: int | None
    rounds: list[HttpRound] = field(default_factory=list)


def summarize_rounds(
    label: str,
    streams: int,
    raws: Sequence[RoundResult],
    https: Sequence[HttpRound],
    peers: Sequence[HttpRound] = (),
) -> Row:
    """Fold the repetitions of one number of streams into a row; `raws`, `https` and `peers` are paired."""
    raw_rates = [raw.output_tokens / (raw.prefill_s + raw.decode_s) for raw in raws]
    rates = [http.tokens_s for http in https]
    peer_rates = [peer.tokens_s for peer in peers]

    def share(seconds: Sequence[float | None]) -> float | None:
        pairs = zip(seconds, https, strict=True)
        return middle([spent / http.wall_s for spent, http in pairs if spent is not None])

    def per_token_us(seconds: Sequence[float | None]) -> float | None:
        pairs = zip(seconds, https, strict=True)
        return middle(
            [1e6 * spent / max(1, http.output_tokens) for spent, http in pairs if spent is not None]
        )

    return Row(
        label=label,
        streams=streams,
        raw_tokens_s=middle(raw_rates),
        raw_step_ms=middle([ms for raw in raws for ms in raw.step_ms]),
        http_tokens_s=middle(rates),
        ratio=middle([rate / raw for rate, raw in zip(rates, raw_rates, strict=False)]),
        peer_ratio=middle([rate / peer for rate, peer in zip(rates, peer_rates, strict=False)]),
        ttft_ms=summarize([s for http in https for s in http.ttft_s], scale=1e3),
        gap_ms=summarize([s for http in https for s in http.gap_s], scale=1e3),
        loop_share=share([http.loop_cpu_s for http in https]),
        engine_share=share([_sum(http.engine_cpu_s, http.other_cpu_s) for http in https]),
        loop_us_per_token=per_token_us([http.loop_cpu_s for http in https]),
        engine_us_per_token=per_token_us([http.engine_cpu_s for http in https]),
        server_us_per_token=per_token_us(
            [_sum(http.loop_cpu_s, http.engine_cpu_s, http.other_cpu_s) for http in https]
        ),
        client_us_per_token=per_token_us([http.client_cpu_s for http in https]),
        prompt_tokens=middle(
            [http.prompt_tokens / streams for http in https] or [raw.prompt_tokens / streams for raw in raws]
        ),
        cached_tokens=middle([http.cached_tokens / streams for http in https]),
        output_tokens=middle([http.output_tokens / streams for http in https]),
        broken=[why for http in https for why in http.broken]
        + [
            f"the raw loop's prompts have {raw.prompt_tokens} tokens, the server's {http.prompt_tokens}"
            for raw, http in zip(raws, https, strict=False)
            if raw.prompt_tokens != http.prompt_tokens
        ],
    )


def _sum(*seconds: float | None) -> float | None:
    known = [value for value in seconds if value is not None]
    return sum(known) if known else None


def goals(rows: Sequence[Row]) -> list[Goal]:
    """The peer's throughput, where there is a peer."""
    return [
        Goal(f"throughput / peer's, {row.streams} streams", PEER_GOALS[row.streams], row.peer_ratio, False)
        for row in rows
        if row.peer_ratio is not None and row.streams in PEER_GOALS
    ]


def cells(row: Row) -> list[str]:
    """A row as it is printed."""
    return [
        row.label,
        str(row.streams),
        number(row.raw_tokens_s, 1),
        number(row.raw_step_ms, 1),
        number(row.http_tokens_s, 1),
        number(row.ratio, 3),
        number(row.peer_ratio, 3),
        spread(row.ttft_ms, 0),
        spread(row.gap_ms, 1),
        number(row.loop_share, 1, 100),
        number(row.engine_share, 1, 100),
        number(row.loop_us_per_token, 0),
        number(row.engine_us_per_token, 0),
        number(row.server_us_per_token, 0),
        f"{number(row.prompt_tokens, 0)} ({number(row.cached_tokens, 0)}) / {number(row.output_tokens, 0)}",
    ]


def sheet_of(name: str, rows: Sequence[Row], goals: list[Goal]) -> Sheet:
    """The rows as a table."""
    return Sheet(
        name=name,
        columns=COLUMNS,
        cells=[cells(row) for row in rows],
        rows=rows,
        goals=goals,
        definitions=DEFINITIONS,
        broken=[why for row in rows for why in row.broken],
    )


async def serve(bed: Bed, plan: Plan) -> Sheet:
    """The server alone, or the peer alone where there is one."""
    return await _measure(bed, plan, has_own=bed.peer is None, has_raw=False)


async def raw(bed: Bed, plan: Plan) -> Sheet:
    """The raw loop alone."""
    return await _measure(bed, plan, has_own=False, has_raw=True)


async def compared(bed: Bed, plan: Plan) -> Sheet:
    """The server, the raw loop, and the peer where there is one, in turns."""
    return await _measure(bed, plan, has_own=True, has_raw=True)


async def _measure(bed: Bed, plan: Plan, *, has_own: bool, has_raw: bool) -> Sheet:
    streams = plan.streams or STREAMS
    rows: list[Row] = []
    async with AsyncExitStack() as stack:
        sides: list[Side] = []
        if has_own:
            slots = str(plan.slots or max(streams))
            server = await stack.enter_async_context(bed.server("--slots", slots))
            sides.append(Side("corral", server.target, server.pid))
        if bed.peer is not None:
            sides.append(Side("peer", bed.peer, None))
        loop: Yardstick | None = None
        if has_raw:
            starting = yardstick(
                bed.model_file, sequences=max(streams), threads=bed.threads, spin_count=plan.spin_count
            )
            loop = await stack.enter_async_context(starting)
        rows += await take_turns(plan, streams, sides, loop)
    return sheet_of("throughput", rows, goals(rows))


async def take_turns(
    plan: Plan, streams: Sequence[int], sides: Sequence[Side], loop: Yardstick | None
) -> list[Row]:
    """One row per number of streams and server."""
    prompts = PromptSource()
    rows: list[Row] = []
    for count in streams:
        rows += await _rounds(plan, prompts, count, sides, loop)
    return rows


async def _rounds(
    plan: Plan, prompts: PromptSource, streams: int, sides: Sequence[Side], loop: Yardstick | None
) -> list[Row]:
    raws: list[RoundResult] = []
    for side in sides:
        side.rounds.clear()
    turns: list[Side | None] = [None, *sides] if loop is not None else [*sides]
    for repetition in range(-1, plan.repeats):  # -1 warms up and is not counted
        asked = prompts.take(streams)
        count = plan.output_tokens if repetition >= 0 else WARM_UP_TOKENS
        first = (repetition + 1) % len(turns)
        for turn in (*turns[first:], *turns[:first]):
            if turn is not None:
                turn.rounds.append(await http_round(turn.target, asked, count, pid=turn.pid))
            elif loop is not None:
                raws.append(await loop.round(asked, count))
            dot()
    if not sides:
        return [summarize_rounds("raw", streams, raws[1:], [])]
    peers = sides[1].rounds[1:] if len(sides) > 1 else []
    rows = [summarize_rounds(sides[0].label, streams, raws[1:], sides[0].rounds[1:], peers)]
    return rows + [summarize_rounds(side.label, streams, raws[1:], side.rounds[1:]) for side in sides[1:]]
