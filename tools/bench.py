"""The figures of the server and its engine, each with what it is compared with in the same run.

    python tools/bench.py all                       the server, the raw loop, and their ratio
    python tools/bench.py all --peer http://127.0.0.1:8080     and another server's, in turns
    python tools/bench.py serve --switchinterval 0.05,0.5,5
    python tools/bench.py cost                      a token's whole cost outside llama.cpp (scripted backend)
    python tools/bench.py residual                  busy time after a client has left
    python tools/bench.py retry                     what a retry of an abandoned prefill computes again
    python tools/bench.py shared                    a system prompt that many requests share
    python tools/bench.py pace                      streams beside a long prefill
    python tools/bench.py drafting                  speculative decoding, with and without
    python tools/bench.py engine                    all of these, in less than eight minutes
    python tools/bench.py crowd                     streams beside 100 and 1,000 readers of /status
    python tools/bench.py delay                     from a token's sampling to such a reader, and its memory
    python tools/bench.py all --json rows.json -- --step-budget-ms 60    (flags for the server)

`serve`, `residual`, `retry`, `shared` and `pace` with --peer measure that server instead of one of ours.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import trio
from rich.console import Console

import bench_throughput
from bench_company import pace, shared
from bench_drafting import drafting
from bench_leaving import residual, retry
from bench_status import crowd, delay
from bench_throughput import Plan
from http1 import FramingError
from loadclient import Target
from serverproc import DEFAULT_COMMAND, SCRIPTED_COMMAND, Bed, served_model
from sheet import Sheet, load_average, load_text

FIGURES = {
    "residual": residual,
    "retry": retry,
    "shared": shared,
    "pace": pace,
    "drafting": drafting,
    "crowd": crowd,
    "delay": delay,
}
THROUGHPUT = ("serve", "raw", "all", "cost")
EVERYTHING = ("residual", "retry", "shared", "pace", "drafting", "cost", "all")
REPEATS = {"residual": 5, "retry": 5, "shared": 5, "pace": 5, "drafting": 3}  # others: 5
MODEST_REPEATS = {"residual": 3, "retry": 3, "shared": 2, "pace": 2, "drafting": 2, "cost": 2, "all": 3}
STEP_MS = 10
WIDTH = 180


async def run(args: argparse.Namespace, what: str) -> Sheet:
    """One subcommand."""
    repeats = args.repeats or (MODEST_REPEATS if args.what == "engine" else REPEATS).get(what, 5)
    peer = await _found(args.peer, args.api_key) if args.peer else None
    model = ["--model", str(args.model)] if args.model else []
    threads = [] if args.server_cmd else [*model, "--threads", str(args.threads)]
    if what in FIGURES:
        bed = Bed(args.server_cmd or DEFAULT_COMMAND, (*threads, *args.flags), repeats, peer)
        return await FIGURES[what](bed)
    streams = args.streams or ([1, 16, 64] if what == "cost" else [1, 8, 16])
    slots = ["--slots", str(args.slots or max(streams))]
    command = args.server_cmd or DEFAULT_COMMAND
    flags = [*slots, *threads, *args.flags]
    if what == "cost":
        # the engine's run has flags for corral, and these are another program's
        command = args.server_cmd or f"{SCRIPTED_COMMAND} --step-ms {STEP_MS}"
        flags = [*slots, *(args.flags if args.what == "cost" else ())]
    is_ours = what in ("all", "cost") or (what == "serve" and peer is None)
    plan = Plan(
        what=what,
        streams=streams,
        output_tokens=args.output_tokens,
        repeats=repeats,
        command=command if is_ours else None,
        flags=flags,
        peer=peer if what in ("all", "serve") else None,
        model=(args.model or default_model()) if what in ("raw", "all") else None,
        threads=args.threads,
        spin_count=args.spin_count,
        switch_interval_ms=args.switchinterval if is_ours else (),
    )
    return await bench_throughput.measure(plan)


async def _found(url: str, api_key: str | None) -> Target:
    """The server at `url`, by the name of its model. Raises SystemExit when nobody answers."""
    try:
        target = Target.from_url(url, api_key=api_key)
        return replace(target, model=await served_model(target))
    except (OSError, ValueError, FramingError) as error:
        raise SystemExit(f"bench: no server at {url}: {error}") from None


def default_model() -> Path:
    """The file the server uses when it is given none."""
    from corral.engine.local.llama.modelfile import resolve

    return resolve(None).path


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; flags after `--` go to the server."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("what", choices=[*THROUGHPUT, *FIGURES, "engine"])
    add("--repeats", type=int, help="[5; drafting: 3; engine: 2 or 3 of each]")
    add("--streams", type=_numbers, metavar="N,N", help="of throughput [1,8,16; cost: 1,16,64]")
    add("--output-tokens", type=int, default=64, help="of a stream, for throughput [%(default)s]")
    add("--threads", type=int, default=2)
    add("--slots", type=int, help="for throughput [the largest number of streams]")
    add("--model", type=Path, help="GGUF file [the server's default]")
    add("--server-cmd", default="", help="command that starts a server; {port} is filled in")
    add("--peer", metavar="URL", help="a running server, to compare with (all) or to measure")
    add("--api-key")
    add("--switchinterval", type=_floats, default=[], metavar="MS,MS")
    add("--spin-count", default="1000", help="GOMP_SPINCOUNT of the raw loop [%(default)s]")
    add("--json", type=Path, help="write all figures there")
    args = parser.parse_args(arguments[:cut])
    args.flags = arguments[cut + 1 :]
    if args.peer and args.what in ("raw", "cost", "drafting", "crowd", "delay"):
        parser.error(f"{args.what} has no use for --peer")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print; 1 where an answer was not whole. A goal that is missed is printed, not an error."""
    args = parse(argv)
    console = Console(width=WIDTH)
    sheets = []
    for what in EVERYTHING if args.what == "engine" else (args.what,):
        print(f"{what}: load average {load_text(load_average())} ", end="", file=sys.stderr, flush=True)
        sheets.append(trio.run(run, args, what))
        print(file=sys.stderr)
        sheets[-1].show(console)
        if args.json:
            args.json.write_bytes(msgspec.json.format(msgspec.json.encode(sheets)))
    return 1 if any(sheet.broken for sheet in sheets) else 0


if __name__ == "__main__":
    sys.exit(main())
