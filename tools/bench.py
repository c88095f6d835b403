"""Throughput and latency over HTTP against the same batch loop with no server, in one run.

    python tools/bench.py all                       the server, the raw loop, and their ratio
    python tools/bench.py serve --switchinterval 0.05,0.5,5
    python tools/bench.py serve --peer http://127.0.0.1:8080
    python tools/bench.py cost                      a token's whole cost outside llama.cpp (scripted backend)
    python tools/bench.py all --json rows.json -- --step-budget-ms 60    (flags for the server)

The server runs as a subprocess, the client in this process, the raw loop in a third. Rounds alternate
(raw, HTTP, raw, HTTP ...), each with prompts of its own that both get; ratios are taken within a repetition
and their median is printed, because a shared machine changes its speed by the minute.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

import msgspec
import trio
from rich.console import Console
from rich.table import Table

from benchrun import HttpRound, PromptSource, http_round, raw_process
from figures import Summary, summarize
from loadclient import Target
from rawloop import RoundResult
from serverproc import DEFAULT_COMMAND, SCRIPTED_COMMAND, serve, served_model

DEFINITIONS = """\
tokens/s: completion tokens of all streams (from the usage chunk) / wall time from before the first connect to
  after the last end, prefill included. raw: the same prompts, prefilled one after the other, then decoded
  together, picked by argmax; no trio, no HTTP, no text. raw step: one llama_decode of that loop.
TTFT: last byte of the request sent to the first delta with text. inter-token: between deltas of one stream.
loop / engine share: CPU time of the server's main thread / of all its other threads (llama.cpp's included),
  by wall time. 100 % is one core.
loop us/token: CPU time of the main thread / completion tokens: everything the event loop does for a token.
server us/token: CPU time of all threads / completion tokens; on the scripted backend, whose steps
  sleep 10 ms, this is the whole cost of a token outside llama.cpp."""


class Row(msgspec.Struct, frozen=True):
    """One line of the table: medians over the repetitions, percentiles over all tokens."""

    label: str
    streams: int
    raw_tokens_s: float | None
    raw_step_ms: float | None
    http_tokens_s: float | None
    ratio: float | None
    ttft_ms: Summary
    gap_ms: Summary
    loop_share: float | None
    engine_share: float | None
    loop_us_per_token: float | None
    server_us_per_token: float | None
    client_us_per_token: float | None
    prompt_tokens: float | None
    output_tokens: float | None
    broken: list[str]


def summarize_rounds(
    label: str, streams: int, raws: Sequence[RoundResult], https: Sequence[HttpRound]
) -> Row:
    """Fold the repetitions of one number of streams into a row; `raws` and `https` are paired."""
    raw_rates = [raw.output_tokens / (raw.prefill_s + raw.decode_s) for raw in raws]
    rates = [http.tokens_s for http in https]
    tokens = [max(1, http.output_tokens) for http in https]
    known = [http for http in https if http.loop_cpu_s is not None and http.engine_cpu_s is not None]
    loop_s = [http.loop_cpu_s or 0.0 for http in known]
    engine_s = [http.engine_cpu_s or 0.0 for http in known]
    pairs = list(zip(loop_s, engine_s, known, strict=True))
    ratios = [rate / raw for rate, raw in zip(rates, raw_rates, strict=False)]
    return Row(
        label=label,
        streams=streams,
        raw_tokens_s=_median(raw_rates),
        raw_step_ms=_median([ms for raw in raws for ms in raw.step_ms]),
        http_tokens_s=_median(rates),
        ratio=_median(ratios),
        ttft_ms=summarize([s for http in https for s in http.ttft_s], scale=1e3),
        gap_ms=summarize([s for http in https for s in http.gap_s], scale=1e3),
        loop_share=_median([loop / http.wall_s for loop, _, http in pairs]),
        engine_share=_median([engine / http.wall_s for _, engine, http in pairs]),
        loop_us_per_token=_median([loop / max(1, http.output_tokens) * 1e6 for loop, _, http in pairs]),
        server_us_per_token=_median(
            [(loop + engine) / max(1, http.output_tokens) * 1e6 for loop, engine, http in pairs]
        ),
        client_us_per_token=_median(
            [http.client_cpu_s / count * 1e6 for http, count in zip(https, tokens, strict=True)]
        ),
        prompt_tokens=_median(
            [http.prompt_tokens / streams for http in https] or [raw.prompt_tokens / streams for raw in raws]
        ),
        output_tokens=_median([http.output_tokens / streams for http in https]),
        broken=[why for http in https for why in http.broken]
        + [
            f"the raw loop's prompts have {raw.prompt_tokens} tokens, the server's {http.prompt_tokens}"
            for raw, http in zip(raws, https, strict=False)
            if raw.prompt_tokens != http.prompt_tokens
        ],
    )


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def table(rows: Sequence[Row]) -> Table:
    """The rows as a rich table."""
    shown = Table(title="corral bench")
    for column in (
        "",
        "streams",
        "raw tok/s",
        "raw step ms",
        "HTTP tok/s",
        "ratio",
        "TTFT p50/p95 ms",
        "inter-token p50/p95 ms",
    ):
        shown.add_column(column, justify="right")
    for column in ("loop %", "engine %", "loop us/tok", "server us/tok", "tokens in/out"):
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(
            row.label,
            str(row.streams),
            _cell(row.raw_tokens_s, 1),
            _cell(row.raw_step_ms, 1),
            _cell(row.http_tokens_s, 1),
            _cell(row.ratio, 3),
            f"{_cell(row.ttft_ms.p50, 0)} / {_cell(row.ttft_ms.p95, 0)}",
            f"{_cell(row.gap_ms.p50, 1)} / {_cell(row.gap_ms.p95, 1)}",
            _cell(row.loop_share, 1, 100),
            _cell(row.engine_share, 1, 100),
            _cell(row.loop_us_per_token, 0),
            _cell(row.server_us_per_token, 0),
            f"{_cell(row.prompt_tokens, 1)} / {_cell(row.output_tokens, 1)}",
        )
    return shown


def _cell(value: float | None, digits: int, scale: float = 1.0) -> str:
    return "-" if value is None else f"{value * scale:.{digits}f}"


async def compare(args: argparse.Namespace, label: str, env: dict[str, str]) -> list[Row]:
    """One row per number of streams, with the server (or peer) and the raw loop as the command asks."""
    prompts = PromptSource()
    rows = []
    async with AsyncExitStack() as stack:
        target: Target | None = None
        pid: int | None = None
        if args.peer:
            target = Target.from_url(args.peer, api_key=args.api_key)
            target = Target.from_url(args.peer, api_key=args.api_key, model=await served_model(target))
        elif args.what != "raw":
            server = await stack.enter_async_context(serve(args.server_cmd, args.flags, env=env))
            target, pid = server.target, server.pid
        raw = None
        if args.what in ("raw", "all"):
            raw = await stack.enter_async_context(
                raw_process(
                    args.model, sequences=max(args.streams), threads=args.threads, spin_count=args.spin_count
                )
            )
        for streams in args.streams:
            raws: list[RoundResult] = []
            https: list[HttpRound] = []
            for repetition in range(-1, args.repeats):  # -1 warms up and is not counted
                asked = prompts.take(streams)
                count = args.output_tokens if repetition >= 0 else 8
                if raw is not None:
                    raws.append(await raw.round(asked, count))
                if target is not None:
                    https.append(await http_round(target, asked, count, pid=pid))
                print(".", end="", file=sys.stderr, flush=True)
            rows.append(summarize_rounds(label, streams, raws[1:], https[1:]))
    print(file=sys.stderr)
    return rows


async def run(args: argparse.Namespace) -> list[Row]:
    """All rows: one set, or one set per switch interval."""
    if not args.switchinterval:
        return await compare(args, "peer" if args.peer else args.what, {})
    rows: list[Row] = []
    for interval_ms in args.switchinterval:
        env = {"CORRAL_SWITCH_INTERVAL_MS": f"{interval_ms:g}"}
        rows += await compare(args, f"switch {interval_ms:g} ms", env)
    return rows


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def default_model() -> Path:
    """The file the server uses when it is given none."""
    from corral.engine.llama.modelfile import resolve

    return resolve(None).path


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; flags after `--` go to the server."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("what", choices=["serve", "raw", "all", "cost"])
    add("--streams", type=_numbers, metavar="N,N", help="[1,8,16; cost: 1,16,64]")
    add("--output-tokens", type=int, default=64)
    add("--repeats", type=int, default=5)
    add("--threads", type=int, default=2)
    add("--slots", type=int, help="[the largest number of streams]")
    add("--model", type=Path, help="GGUF file [the server's default]")
    add("--server-cmd", default="", help="command that starts a server; {port} is filled in")
    add("--peer", help="a running server's URL instead of one started here")
    add("--api-key")
    add("--switchinterval", type=_floats, default=[], metavar="MS,MS")
    add("--spin-count", default="1000", help="GOMP_SPINCOUNT of the raw loop [%(default)s]")
    add("--json", type=Path, help="write the rows there")
    args = parser.parse_args(arguments[:cut])
    args.flags = arguments[cut + 1 :]
    args.streams = args.streams or ([1, 16, 64] if args.what == "cost" else [1, 8, 16])
    slots = ["--slots", str(args.slots or max(args.streams))]
    if args.what == "cost":
        args.server_cmd = args.server_cmd or f"{SCRIPTED_COMMAND} --step-ms 10"
        args.flags = [*slots, *args.flags]
    elif not args.server_cmd:
        args.server_cmd = DEFAULT_COMMAND
        model = ["--model", str(args.model)] if args.model else []
        args.flags = [*model, *slots, "--threads", str(args.threads), *args.flags]
    if args.what in ("raw", "all") and args.model is None:
        args.model = default_model()
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print; 1 where a stream was not whole."""
    args = parse(argv)
    rows = trio.run(run, args)
    console = Console(width=180)
    console.print(table(rows))
    console.print(DEFINITIONS, highlight=False)
    broken = [why for row in rows for why in row.broken]
    for why in broken[:10]:
        console.print(f"[red]not whole:[/] {why}")
    if args.json:
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows)))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
