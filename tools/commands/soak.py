"""Hours of bad company: random aborts, stalls, resets and hostile clients, and then: is everything back?

    python tools/soak.py --minutes 20
    python tools/soak.py --minutes 2 --json soak.json
    python tools/soak.py --minutes 20 --inexact --server-cmd 'corral serve --bind 127.0.0.1:{port}'

It starts the server itself (on the scripted backend, so that each text is known exactly), watches it
through /proc while clients come, leave and misbehave over HTTP/1.1 and HTTP/2, and checks at the end:

  text          every client that stayed got the reference answer, whole, and no hostile one a 500
  descriptors   as many open as before the load, once connections had time to settle
  threads       no more than before the load
  slots         as many streams as there are slots run side by side: none is held by somebody gone
  memory        resident memory grew by less than 2 % after minute 5 (in runs of less than 10 minutes: by less
                than 15 % after the first quarter)
  exit          SIGTERM ends it with code 0

Exit code 0 when all hold.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import trio
from rich.console import Console

from tools.load.company import Company, references, side_by_side
from tools.load.hostility import rehearse
from tools.load.verdict import Sample, Soaked, verdict, watch
from tools.servers.footprint import footprint
from tools.servers.server import SCRIPTED_COMMAND, serve
from tools.sheets.sheet import WIDTH, Sheet, write

# glibc by itself keeps what the largest bodies took, cut up by what was put between: 10 to 15 MB after three
# minutes. That grows with the worst moment there ever was, and would be taken for a leak. A threshold that
# was set does not move (mallopt(3)), and large blocks go back to the system. corral does not set it where it
# serves, since a token that is drawn from 49,152 would take 0.3 ms longer.
HONEST_HEAP = {"MALLOC_MMAP_THRESHOLD_": "131072"}


async def soak(args: argparse.Namespace) -> Sheet:
    """Load a server, let it settle, end it, and say what is back."""
    samples: list[Sample] = []
    async with serve(args.server_cmd, ["--slots", str(args.slots)], env=HONEST_HEAP) as server:
        texts = await references(server.target, args.output_tokens)
        await rehearse(server.target, args.clients, args.rehearsals, random.Random(args.seed))
        await side_by_side(server.target, args.slots)
        # Every thread and buffer that is ever needed exists now.
        await trio.sleep(args.settle)
        before = footprint(server.pid)
        company = Company(server.target, texts, args.output_tokens, random.Random(args.seed))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, server.pid, samples)
            with trio.move_on_after(args.minutes * 60):
                await company.keep_coming(args.clients)
            nursery.cancel_scope.cancel()
        together = await side_by_side(server.target, args.slots)
        await trio.sleep(args.settle)
        after = footprint(server.pid)
        tail = server.log_tail()
    if "Traceback" in tail:
        print(tail)
    code = server.process.returncode
    clients = company.outcomes, company.addresses, company.wrong
    soaked = Soaked(*clients, before, after, together, code, samples)
    return verdict(soaked, slots=args.slots, is_exact=not args.inexact)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--settle", type=float, default=15.0, help="seconds for connections to time out")
    parser.add_argument("--rehearsals", type=int, default=12, help="hostile clients of each, before")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--server-cmd",
        default=f"{SCRIPTED_COMMAND} --script rambling --step-ms 4",
        help="{port} is filled in; --slots is appended",
    )
    parser.add_argument("--inexact", action="store_true", help="texts may differ from the reference")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print the verdict; 1 where something is not back."""
    args = parse(argv)
    sheet = trio.run(soak, args)
    sheet.show(Console(width=WIDTH))
    if args.json:
        write(args.json, [sheet])
    return 0 if sheet.goals_are_met else 1
