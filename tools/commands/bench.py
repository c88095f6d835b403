"""The figures of the server and its engine, each with what it is compared with in the same run.

    python tools/bench.py all                       the server, the raw loop, and their ratio
    python tools/bench.py all --peer http://127.0.0.1:8080     and another server's, in turns
    python tools/bench.py cost                      a token's whole cost outside llama.cpp (scripted backend)
    python tools/bench.py residual                  busy time after a client has left
    python tools/bench.py retry                     what a retry of an abandoned prefill computes again
    python tools/bench.py shared                    a system prompt that many requests share
    python tools/bench.py pace                      streams beside a long prefill
    python tools/bench.py drafting                  speculative decoding, with and without
    python tools/bench.py engine                    all of these, in less than eight minutes
    python tools/bench.py crowd                     streams beside 100 and 1,000 readers of /status
    python tools/bench.py delay                     from a token's sampling to such a reader, and its memory
    python tools/bench.py viewer                    bytes per second of one such reader at 16 busy slots
    python tools/bench.py structure                 answers held to a schema, and what reading blocks takes
    python tools/bench.py steps --omp all           what a llama.cpp step costs, by what is in it
    python tools/bench.py waits                     what those in line are told, against the truth
    python tools/bench.py fair                      one request behind another client's fifty
    python tools/bench.py load --peer http://127.0.0.1:8080    loads that agents and retrieval make, in turns
    python tools/bench.py load --loads talk,short --peer-cmd 'llama-server -m model.gguf --port {port} -t 2
                               -np {slots} -c {ctx_tokens}'   and a peer that is started for it
    python tools/bench.py policy                    scheduler and pace against curves of costs, with no model
    python tools/bench.py policy --against          what the laboratory foretells of real runs, and they
    python tools/bench.py fleet                     corral in front of engines elsewhere, which wait
    python tools/bench.py fleet --peer-cmd 'llama-server -m model.gguf -t 1 --port {port} -np {slots}
                               -c {ctx_tokens}'    and of real ones: the gone, and affinity
    python tools/bench.py routing                   which of 2 to 1,000 replicas, in virtual time
    python tools/bench.py all --json rows.json -- --step-budget-ms 60    (flags for the server)

`serve`, `residual`, `retry`, `shared` and `pace` with --peer measure that server instead of one of ours.
"""

import argparse
import sys
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from pathlib import Path

import trio
from rich.console import Console

from tools.clients.framing import FramingError
from tools.clients.target import Target
from tools.lab.loads import LOADS as LAB_LOADS
from tools.lab.machines import MACHINES
from tools.measures.bed import Bed
from tools.measures.figures import ENGINE, measure
from tools.measures.loads import LOADS
from tools.measures.plan import LabPlan, Plan
from tools.measures.steps import OMP_SETTINGS
from tools.servers.server import served_model
from tools.sheets.sheet import WIDTH, Sheet, write

EVERYTHING = "engine"
MODEST_REPEATS = {"residual": 3, "retry": 3, "shared": 2, "pace": 2, "drafting": 2, "cost": 2, "all": 3}
"""What `engine` measures, in this order, and how often."""
PEERLESS = {
    "raw",
    "cost",
    "drafting",
    "crowd",
    "delay",
    "viewer",
    "steps",
    "waits",
    "fair",
    "policy",
    "fleet",
    "routing",
}
REPEATS = {"drafting": 3, "steps": 7, "waits": 2, "fair": 3}  # others: 5


async def run(args: argparse.Namespace, what: str, console: Console) -> Sheet:
    """One figure."""
    usual = MODEST_REPEATS if args.what == EVERYTHING else REPEATS
    plan = Plan(
        repeats=args.repeats or usual.get(what, 5),
        streams=args.streams,
        output_tokens=args.output_tokens,
        slots=args.slots,
        spin_count=args.spin_count,
        omp=tuple(OMP_SETTINGS) if args.omp == "all" else (args.omp,),
        loads=args.loads,
        load_share=args.load_share,
        has_raw=args.raw,
        lab=LabPlan(
            machines=args.lab_machines,
            loads=args.lab_loads,
            slots=args.lab_slots,
            shares=args.lab_shares,
            requests=args.lab_requests,
            costs=args.lab_costs,
            is_against=args.against,
        ),
    )
    bed = Bed(
        command=args.server_cmd or None,
        # among all figures, flags are meant for corral on a model, and cost has the scripted engine
        flags=() if what == "cost" and args.what == EVERYTHING else tuple(args.flags),
        model=args.model,
        threads=args.threads,
        peer=await _found(args.peer, args.api_key) if args.peer else None,
        peer_command=args.peer_cmd or None,
        router_command=args.router_cmd or None,
    )
    return await measure(what, ENGINE[what], bed, plan, console)


async def _found(url: str, api_key: str | None) -> Target:
    """The server at `url`, by the name of its model. Raises SystemExit when nobody answers."""
    try:
        target = Target.from_url(url, api_key=api_key)
        return replace(target, model=await served_model(target))
    except (OSError, ValueError, FramingError) as error:
        raise SystemExit(f"bench: no server at {url}: {error}") from None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _of(known: Container[str]) -> Callable[[str], tuple[str, ...]]:
    """Reads names that are known, with commas between."""

    def names(text: str) -> tuple[str, ...]:
        found = tuple(text.split(","))
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"nothing is called {', '.join(unknown)}")
        return found

    return names


def _loads(text: str) -> tuple[str, ...]:
    """Names of loads; `short` stands for all whose names begin so. Raises ArgumentTypeError."""
    chosen: list[str] = []
    for part in text.split(","):
        found = [name for name in LOADS if name == part or name.startswith(f"{part}-")]
        if not found:
            raise argparse.ArgumentTypeError(f"no load {part!r}; there are {', '.join(LOADS)}")
        chosen += found
    return tuple(chosen)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; flags after `--` go to the server."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("what", choices=[*ENGINE, EVERYTHING])
    add(
        "--repeats",
        "--rounds",
        type=int,
        help="[5; drafting, fair: 3; steps: 7; waits: 2; engine: 2 or 3 of each]",
    )
    add("--streams", type=_numbers, metavar="N,N", help="of throughput [1,8,16; cost: 1,16,64,256]")
    add("--output-tokens", type=int, default=64, help="of a stream, for throughput [%(default)s]")
    add("--threads", type=int, default=2)
    add("--slots", type=int, help="for throughput [the largest number of streams]")
    add("--model", type=Path, help="GGUF file [the server's default]")
    add("--server-cmd", default="", help="command that starts a server; {port} is filled in")
    add("--peer", metavar="URL", help="a running server, to compare with (all, load) or to measure")
    add(
        "--peer-cmd",
        default="",
        help="starts a peer, for load and fleet; {port}, {slots}, {ctx_tokens} are filled in",
    )
    add(
        "--router-cmd",
        default="",
        help="starts another router in front of peers, for fleet; {port} and {urls} are filled in",
    )
    add("--api-key")
    add("--loads", type=_loads, default=(), metavar="NAME,NAME", help=f"of load, in turn [{','.join(LOADS)}]")
    add("--load-share", type=float, default=1.0, help="of each load's questions [%(default)s]")
    add("--raw", action="store_true", help="load: what llama.cpp's bare batch loop makes of the same loads")
    add("--spin-count", default="1000", help="GOMP_SPINCOUNT of the raw loop [%(default)s]")
    add("--omp", choices=[*OMP_SETTINGS, "all"], default="default", help="OpenMP's setting, for steps")
    lab = LabPlan()
    add("--lab-machines", type=_of(MACHINES), default=lab.machines, help=f"of {', '.join(MACHINES)}")
    add("--lab-costs", type=Path, metavar="LOG", help="the machine whose engine wrote this, instead")
    add(
        "--lab-loads",
        type=_of(LAB_LOADS),
        default=lab.loads,
        help=f"of {', '.join(LAB_LOADS)} [all but retrieval]",
    )
    add("--lab-slots", type=_numbers, default=lab.slots, metavar="N,N", help="[4,64,256]")
    add("--lab-shares", type=_floats, default=lab.shares, metavar="X,X", help="of capacity [0.5,0.8,1,1.5]")
    add("--lab-requests", type=int, metavar="N", help="for each row of policy [by the slots]")
    add("--against", action="store_true", help="policy: hold the laboratory against real runs")
    add("--json", type=Path, help="write all figures there")
    args = parser.parse_args(arguments[:cut])
    args.flags = arguments[cut + 1 :]
    if args.peer and args.what in PEERLESS:
        parser.error(f"{args.what} has no use for --peer")
    if args.peer and args.peer_cmd:
        parser.error("a peer runs already (--peer) or is started (--peer-cmd)")
    if args.peer_cmd and args.what not in ("load", "fleet"):
        parser.error(f"{args.what} has no use for --peer-cmd")
    if args.router_cmd and not (args.what == "fleet" and args.peer_cmd):
        parser.error("--router-cmd is for fleet, and stands in front of what --peer-cmd starts")
    for place in ("{port}", "{urls}"):
        if args.router_cmd and place not in args.router_cmd:
            parser.error(f"--router-cmd has no {place}")
    for place in ("{port}", "{slots}", "{ctx_tokens}"):
        if args.peer_cmd and place not in args.peer_cmd:
            parser.error(f"--peer-cmd has no {place}")
    return args


def _sheets(args: argparse.Namespace) -> list[tuple[str, tuple[str, ...]]]:
    """What is measured, each with a sheet of its own: loads take minutes, so each has one."""
    if args.what == EVERYTHING:
        return [(what, ()) for what in MODEST_REPEATS]
    if args.what == "load":
        return [("load", (name,)) for name in args.loads or LOADS]
    return [(args.what, ())]


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print; 1 where an answer was not whole. A goal that is missed is printed, not an error."""
    args = parse(argv)
    console = Console(width=WIDTH)
    sheets = []
    for what, loads in _sheets(args):
        args.loads = loads
        sheets.append(trio.run(run, args, what, console))
        if args.json:
            write(args.json, sheets)
    return 1 if any(sheet.broken for sheet in sheets) else 0
