"""Hours of bad company: a mixed load with random aborts, stalls and resets, and then: is everything back?

    python tools/soak.py --minutes 20
    python tools/soak.py --minutes 2 --json soak.json
    python tools/soak.py --minutes 20 --inexact --server-cmd 'corral serve --bind 127.0.0.1:{port}'

It starts the server itself (on the scripted backend, so that each text is known exactly), watches it
through /proc while clients come, leave and misbehave over HTTP/1.1 and HTTP/2, and checks at the end:

  text          every client that stayed got the reference answer, whole
  descriptors   as many open as before the load, once connections had time to settle
  threads       no more than before the load
  slots         as many streams as there are slots run side by side: none is held by somebody gone
  memory        resident memory grew by less than 2 % after minute 5 (or the first quarter, if earlier)
  exit          SIGTERM ends it with code 0

Exit code 0 when all hold.
"""

import argparse
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import msgspec
import trio

from loadclient import Chat, Habit, Leave, Target, chat
from loadh2 import chat_h2
from prompts import messages
from serverproc import SCRIPTED_COMMAND, Footprint, Server, footprint, serve
from sse import Answer

REFERENCES = 12
SAMPLE_S = 2.0
RSS_GROWTH_LIMIT = 0.02


class Sample(msgspec.Struct, frozen=True):
    """The server's footprint `at_s` into the load."""

    at_s: float
    rss_bytes: int
    descriptors: int
    threads: int


class Check(msgspec.Struct, frozen=True):
    """One line of the verdict."""

    name: str
    holds: bool
    seen: str


@dataclass(slots=True)
class Company:
    """The clients: who they are is drawn by lot, what the stayers should have read is known."""

    target: Target
    references: list[str]
    output_tokens: int
    chance: random.Random
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def request(self, number: int, *, output_tokens: int | None = None, stream: bool = True) -> Chat:
        """The request whose answer is `references[number]`, unless the length differs."""
        count = output_tokens or self.output_tokens
        return Chat(messages(number), count, temperature=0.0, stream=stream)

    async def come(self) -> None:
        """One client from its arrival to its end."""
        chance = self.chance
        number = chance.randrange(len(self.references))
        kind = chance.choices(
            ("stay", "whole", "half-close", "slow", "leave", "stall"), (40, 10, 5, 5, 30, 10)
        )[0]
        is_h2 = chance.random() < 0.25 and kind != "half-close"
        speak = chat_h2 if is_h2 else chat
        request = self.request(number, stream=kind != "whole")
        habit = Habit()
        if kind == "half-close":
            habit = Habit(half_closes=True)
        elif kind == "slow":
            habit = Habit(read_bytes_s=8000)
        elif kind == "leave":
            ways = list(Leave) if is_h2 else [Leave.FIN, Leave.RST]
            when_s = chance.choice([0.0, 0.01, 0.1, 0.3])
            habit = Habit(leave=chance.choice(ways), leave_after_s=chance.uniform(0.0, when_s))
        elif kind == "stall":
            request = self.request(number, output_tokens=4000)
            habit = Habit(
                leave=Leave.RST, stalls=True, receive_buffer_bytes=2048, stall_limit_s=chance.uniform(0.1, 6)
            )
        answer = await speak(self.target, request, habit)
        self.judge(f"{kind}{' h2' if is_h2 else ''}", number, answer)

    def judge(self, kind: str, number: int, answer: Answer) -> None:
        """Count the outcome, and hold the text of one who stayed against the reference."""
        self.outcomes[
            f"{kind}: {answer.ending}{f' {answer.status}' if answer.ending == 'refused' else ''}"
        ] += 1
        if kind.startswith(("leave", "stall")):
            if answer.violations:
                self.wrong.append(f"{kind}: {answer.violations}")
            return
        if answer.ending == "refused" and answer.status == 429:
            return
        if answer.ending != "done" or answer.violations or answer.text != self.references[number]:
            self.wrong.append(
                f"{kind}: {answer.ending} {answer.status} {answer.error} {answer.violations} "
                f"{len(answer.text)} of {len(self.references[number])} characters"
            )


async def references(target: Target, output_tokens: int) -> list[str]:
    """What each prompt's answer is, asked one at a time. Raises RuntimeError where one is not whole."""
    texts = []
    for number in range(REFERENCES):
        answer = await chat(target, Chat(messages(number), output_tokens, temperature=0.0, stream=True))
        if not answer.is_whole:
            raise RuntimeError(f"no reference answer: {answer.ending} {answer.error} {answer.violations}")
        texts.append(answer.text)
    return texts


async def side_by_side(target: Target, slots: int) -> int:
    """How many of `slots` streams started together have text while none has ended."""
    answers: list[Answer] = []
    began: list[int] = []

    async def one(number: int) -> None:
        request = Chat(messages(number), 2000, temperature=0.0, stream=True)
        answers.append(await chat(target, request, Habit(leave_after_s=3.0)))

    async with trio.open_nursery() as nursery:
        for number in range(slots):
            nursery.start_soon(one, number)
    first_end_s = min(answer.ended_s or 0.0 for answer in answers)
    began = [1 for answer in answers if answer.content_s and answer.content_s[0] < first_end_s]
    return sum(began)


async def watch(pid: int, samples: list[Sample]) -> None:
    """Sample the footprint until cancelled."""
    started_s = trio.current_time()
    while True:
        seen = footprint(pid)
        at_s = round(trio.current_time() - started_s, 1)
        samples.append(Sample(at_s, seen.rss_bytes, seen.descriptors, seen.threads))
        await trio.sleep(SAMPLE_S)


def rss_growth(samples: Sequence[Sample]) -> float:
    """By which share memory grew from minute 5 (or the first quarter, if that is earlier) to the end.

    Both ends are medians of a tenth of what lies between, so that one sample decides nothing.
    """
    if len(samples) < 4:
        return 0.0
    settled_s = min(300.0, samples[-1].at_s / 4)
    late = [sample.rss_bytes for sample in samples if sample.at_s >= settled_s]
    window = max(1, len(late) // 10)
    return median(late[-window:]) / median(late[:window]) - 1.0


async def soak(
    server: Server, args: argparse.Namespace, samples: list[Sample]
) -> tuple[Company, list[Check]]:
    """Load the server, let it settle, and check."""
    texts = await references(server.target, args.output_tokens)
    await side_by_side(server.target, args.slots)  # every thread and buffer that is ever needed exists now
    await trio.sleep(args.settle)
    before = footprint(server.pid)
    company = Company(server.target, texts, args.output_tokens, random.Random(args.seed))

    async def again() -> None:
        while True:
            await company.come()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, server.pid, samples)
        with trio.move_on_after(args.minutes * 60):
            async with trio.open_nursery() as clients:
                for _ in range(args.clients):
                    clients.start_soon(again)
        nursery.cancel_scope.cancel()
    together = await side_by_side(server.target, args.slots)
    await trio.sleep(args.settle)
    after = footprint(server.pid)
    return company, verdict(company, before, after, samples, together, args)


def verdict(
    company: Company,
    before: Footprint,
    after: Footprint,
    samples: Sequence[Sample],
    together: int,
    args: argparse.Namespace,
) -> list[Check]:
    """What is back and what is not. Pure."""
    growth = rss_growth(samples)
    stayed = sum(count for outcome, count in company.outcomes.items() if outcome.endswith(": done"))
    return [
        Check("text", args.inexact or not company.wrong, f"{stayed} whole, {len(company.wrong)} wrong"),
        Check(
            "descriptors",
            after.descriptors <= before.descriptors,
            f"{before.descriptors} -> {after.descriptors}",
        ),
        Check("threads", after.threads <= before.threads, f"{before.threads} -> {after.threads}"),
        Check("slots", together == args.slots, f"{together} of {args.slots} streams side by side"),
        Check(
            "memory",
            growth < RSS_GROWTH_LIMIT,
            f"{before.rss_bytes / 2**20:.1f} MiB before, {after.rss_bytes / 2**20:.1f} after, "
            f"{growth * 100:+.2f} % since it settled",
        ),
    ]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--settle", type=float, default=15.0, help="seconds for connections to time out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--server-cmd",
        default=f"{SCRIPTED_COMMAND} --script rambling --step-ms 4",
        help="{port} is filled in; --slots is appended",
    )
    parser.add_argument("--inexact", action="store_true", help="texts may differ from the reference")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


async def _main(args: argparse.Namespace) -> list[Check]:
    samples: list[Sample] = []
    async with serve(args.server_cmd, ["--slots", str(args.slots)]) as server:
        company, checks = await soak(server, args, samples)
        tail = server.log_tail()
    checks.append(Check("exit", server.process.returncode == 0, f"code {server.process.returncode}"))
    for outcome, count in sorted(company.outcomes.items()):
        print(f"{count:>7} x {outcome}")
    for wrong in company.wrong[:10]:
        print(f"  WRONG {wrong}")
    if "Traceback" in tail:
        print(tail)
    if args.json:
        args.json.write_bytes(
            msgspec.json.format(
                msgspec.json.encode({"checks": checks, "outcomes": company.outcomes, "samples": samples})
            )
        )
    return checks


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print the verdict; 1 where something is not back."""
    checks = trio.run(_main, parse(argv))
    for check in checks:
        print(f"{'ok    ' if check.holds else 'FAILED'} {check.name:<12} {check.seen}")
    return 0 if all(check.holds for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
