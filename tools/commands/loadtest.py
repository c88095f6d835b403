"""Load for any OpenAI-compatible server, from the clients of real life: those who leave, those who stall.

    corral loadtest --scenario chat  --concurrency 8 --duration 30
    corral loadtest --scenario abort --abort-at queue,prefill,decode --prompt-tokens 1500
    corral loadtest --scenario slow  --slow-readers 50 --slow-bytes-s 0 --chart latency.svg
    corral loadtest --scenario mixed --rate 5 --http 2 --max-ttft-p95-ms 2000 --max-errors 0
    corral loadtest --scenario transport --json transport.json

`transport` starts servers of its own and measures what corral promises of its connections (measures/);
its goals are its thresholds.

Exit code: 0 when every threshold is met, 1 when one is missed, 2 for a wrong command line, 130 after Ctrl-C
(the report of what was seen until then is printed all the same).
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import trio
from rich.console import Console
from rich.live import Live
from rich.table import Table

from tools.clients.framing import FramingError
from tools.clients.habits import PHASES, Leave
from tools.clients.target import Target
from tools.load import chart
from tools.load.report import Report, build, sheet_of
from tools.load.scenarios import SCENARIOS, Load, Tally, run
from tools.measures.bed import Bed
from tools.measures.figures import TRANSPORT
from tools.measures.figures import measure as measure_figure
from tools.measures.plan import QUICK, Plan
from tools.servers.process import ProcessEnded
from tools.servers.server import served_model
from tools.sheets.goal import Goal
from tools.sheets.sheet import WIDTH, Sheet, write
from tools.sheets.summary import percentile, summarize

PROGRESS_S = 0.25
TRANSPORT_SCENARIO = "transport"


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; what is wrong in it ends the program with 2 and one line."""
    parser = argparse.ArgumentParser(
        prog="corral loadtest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--base-url", default="http://127.0.0.1:8000/v1", help="[%(default)s]")
    add("--api-key")
    add("--model", help="[the first that the server lists]")
    add("--insecure", action="store_true", help="accept any TLS certificate")
    add("--scenario", choices=(*SCENARIOS, TRANSPORT_SCENARIO), default="chat")
    add("--concurrency", type=int, default=8, help="clients in the closed loop; victims per round of abort")
    add("--rate", type=float, help="requests per second, Poisson, instead of a closed loop")
    add("--duration", type=float, default=30.0, metavar="S")
    add(
        "--grace", type=float, default=30.0, metavar="S", help="for running requests at the end [%(default)s]"
    )
    add("--prompt-tokens", type=int, default=55)
    add("--output-tokens", type=int, default=64)
    add("--abort-at", type=_list, default=PHASES, metavar="PHASE,..", help="of queue, prefill, decode")
    add(
        "--leave",
        type=_list,
        default=("fin", "rst"),
        metavar="HOW,..",
        help="fin, rst; rst_stream, goaway on h2",
    )
    add("--slow-readers", type=int, default=8, help="attached beside the healthy ones in scenario slow")
    add("--slow-bytes-s", type=float, default=0.0, help="how fast they read; 0: they stop [%(default)s]")
    add("--http", choices=("1.1", "2"), default="1.1")
    add("--status-path", default="/status/events")
    add(
        "--server-cmd",
        help="for scenario transport: starts a corral, {port} is filled in [on the scripted backend]",
    )
    add(
        "--figures",
        type=_list,
        default=tuple(TRANSPORT),
        metavar="NAME,..",
        help=f"of scenario transport: {', '.join(TRANSPORT)}",
    )
    add(
        "--quick",
        action="store_true",
        help="scenario transport, so little of it that its figures say nothing",
    )
    add("--seed", type=int, default=0)
    add("--json", type=Path, metavar="FILE")
    add("--chart", type=Path, metavar="FILE.svg|html")
    add("--max-ttft-p95-ms", type=float)
    add("--max-inter-token-p95-ms", type=float)
    add("--max-cancel-p95-ms", type=float)
    add("--max-eviction-p95-s", type=float)
    add("--min-tokens-s", type=float)
    add("--max-errors", type=int)
    args = parser.parse_args(argv)
    if unknown := set(args.abort_at) - set(PHASES):
        parser.error(f"--abort-at: no phase {', '.join(sorted(unknown))}; there are {', '.join(PHASES)}")
    ways = {how.value for how in Leave} - (set() if args.http == "2" else {"rst_stream", "goaway"})
    if unknown := set(args.leave) - ways:
        parser.error(f"--leave: HTTP/{args.http} has no {', '.join(sorted(unknown))}")
    if unknown := set(args.figures) - set(TRANSPORT):
        parser.error(f"--figures: no figure {', '.join(sorted(unknown))}")
    if args.scenario == "abort" and (args.rate is not None or args.http == "2"):
        parser.error("--scenario abort measures in rounds over HTTP/1.1: no --rate, no --http 2")
    if args.chart is not None and args.chart.suffix not in (".svg", ".html", ".htm"):
        parser.error("--chart: the name must end in .svg or .html")
    return args


def thresholds(args: argparse.Namespace, report: Report) -> list[Goal]:
    """Those given on the command line, with what was measured."""
    limits = [
        ("TTFT p95 ms", args.max_ttft_p95_ms, report.ttft_ms.p95, True),
        ("inter-token p95 ms", args.max_inter_token_p95_ms, report.inter_token_ms.p95, True),
        ("time to cancel p95 ms", args.max_cancel_p95_ms, report.all_cancels_p95_ms, True),
        ("eviction p95 s", args.max_eviction_p95_s, report.eviction_s.p95, True),
        ("tokens/s", args.min_tokens_s, report.tokens_s, False),
        ("errors", args.max_errors, float(report.error_count), True),
    ]
    return [
        Goal(name, limit, measured, at_most) for name, limit, measured, at_most in limits if limit is not None
    ]


def progress(tally: Tally, now_s: float, duration_s: float) -> Table:
    """One line of what goes on now; latency is that of the last 50 polite clients."""
    recent = [r.answer for r in tally.records[-200:] if r.kind == "chat"][-50:]
    tokens = sum(r.answer.completion_tokens for r in tally.records if r.kind == "chat")
    ttft = summarize([a.ttft_s for a in recent if a.ttft_s is not None], scale=1e3)
    passed_s = now_s - tally.started_s
    shown = Table.grid(padding=(0, 2))
    cancels = [s for seconds in tally.cancel_s.values() for s in seconds]
    shown.add_row(
        f"{passed_s:5.1f}/{duration_s:.0f} s",
        "running " + (" ".join(f"{n} {kind}" for kind, n in tally.running.items() if n) or "none"),
        f"ended {len(tally.records)}",
        f"{tokens / max(passed_s, 1e-9):.0f} tok/s",
        f"TTFT {ttft.p50 or 0:.0f}/{ttft.p95 or 0:.0f} ms",
        f"to cancel {percentile(cancels, 0.5) * 1e3:.0f} ms" if cancels else "",
    )
    return shown


async def _show(tally: Tally, duration_s: float, live: Live) -> None:
    while True:
        live.update(progress(tally, trio.current_time(), duration_s), refresh=True)
        await trio.sleep(PROGRESS_S)


async def measure(load: Load, console: Console) -> Report:
    """Run the load with live progress until its end, or until SIGINT; the report either way."""
    tally = Tally(trio.current_time())
    interrupted = False
    with (
        trio.open_signal_receiver(signal.SIGINT) as signals,
        Live(console=console, auto_refresh=False) as live,
    ):

        async def stop_on_signal(scope: trio.CancelScope) -> None:
            nonlocal interrupted
            async for _ in signals:
                interrupted = True
                scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_on_signal, nursery.cancel_scope)
            nursery.start_soon(_show, tally, load.duration_s, live)
            await run(load, tally)
            nursery.cancel_scope.cancel()
    return build(tally, load.scenario, trio.current_time(), interrupted=interrupted)


async def load_from(args: argparse.Namespace) -> Load:
    """The load that the command line asks for; asks the server for its model. Raises OSError, ValueError."""
    target = Target.from_url(args.base_url, api_key=args.api_key, verify=not args.insecure)
    model = args.model or await served_model(target)
    return Load(
        target=Target.from_url(args.base_url, model=model, api_key=args.api_key, verify=not args.insecure),
        scenario=args.scenario,
        concurrency=args.concurrency,
        rate=args.rate,
        duration_s=args.duration,
        grace_s=args.grace,
        prompt_tokens=args.prompt_tokens,
        output_tokens=args.output_tokens,
        abort_at=args.abort_at,
        leaves=tuple(Leave(how) for how in args.leave),
        slow_readers=args.slow_readers,
        slow_bytes_s=args.slow_bytes_s,
        http=args.http,
        status_path=args.status_path,
        seed=args.seed,
    )


async def _main(args: argparse.Namespace, console: Console) -> Report:
    return await measure(await load_from(args), console)


async def _measure_transport(args: argparse.Namespace, console: Console, sheets: list[Sheet]) -> None:
    bed, plan = Bed(args.server_cmd), QUICK if args.quick else Plan()
    for name in args.figures:
        sheet = await measure_figure(name, TRANSPORT[name], bed, plan, console)
        sheets.append(sheet)  # at once: what comes after may fail


def measure_transport(args: argparse.Namespace) -> int:
    """Scenario transport: print its figures as they come, write them, and say whether its goals were met."""
    sheets: list[Sheet] = []
    code = 1
    try:
        trio.run(_measure_transport, args, Console(width=WIDTH), sheets)
        code = 0 if holds(sheets) else 1
    except* (OSError, FramingError, ProcessEnded) as errors:
        print(f"loadtest: {errors.exceptions[0]}", file=sys.stderr)
    except* KeyboardInterrupt:
        code = 130
    if args.json:
        write(args.json, sheets)
    return code


def holds(sheets: Sequence[Sheet]) -> bool:
    """Whether every goal is met, and nothing went wrong on the way."""
    return all(sheet.goals_are_met and not sheet.broken for sheet in sheets)


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print, write, and say by the exit code whether the thresholds were met."""
    args = parse(argv)
    if args.scenario == TRANSPORT_SCENARIO:
        return measure_transport(args)
    try:
        report = trio.run(_main, args, Console(stderr=True))
    except ConnectionRefusedError:
        hint = "start one (make serve), or name another with --base-url"
        print(f"loadtest: no server at {args.base_url}: {hint}", file=sys.stderr)
        return 1
    except (OSError, ValueError, RuntimeError, FramingError) as error:
        print(f"loadtest: {args.base_url}: {error}", file=sys.stderr)
        return 1
    found = sheet_of(report, thresholds(args, report))
    found.show(Console(width=WIDTH))
    if args.json:
        write(args.json, [found])
    if args.chart:
        chart.write(report, args.chart)
    if report.interrupted:
        return 130
    return 0 if found.goals_are_met else 1
