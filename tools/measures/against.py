"""What the laboratory foretells, against runs of a real server.

Each run has a server of its own, whose engine says at its end what it has learned of its costs. With these
the laboratory serves the same requests, in virtual time; what it comes to is held against what the clients
saw. Drafts are off on both sides: what of a text can be guessed is the model's.
"""

from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from tempfile import TemporaryFile

import msgspec
import trio

from tools.clients.asking import DeltaGate, ask
from tools.clients.habits import POLITE
from tools.clients.http1 import chat
from tools.clients.prompts import PromptSource
from tools.clients.sse import Answer
from tools.clients.target import Chat, Target
from tools.lab.engine import Lab
from tools.lab.loads import Ask, Closed, Listed
from tools.lab.machines import Machine, learned
from tools.lab.options import engine_options
from tools.measures.bed import Bed, dot
from tools.measures.plan import Plan
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, number
from tools.sheets.summary import gaps, gaps_within, percentile

TURNAROUND_S = 0.015
"""Of a request beside the engine: docs/benchmarks.md, "Throughput over HTTP"."""
NEAR = 0.15
NO_DRAFTS = ("--prompt-lookup", "false")

Figures = dict[str, float]
"""By their names, with their units."""


class AgainstRow(msgspec.Struct, frozen=True):
    """One figure of one run: what the clients saw, and what the laboratory had said."""

    run: str
    figure: str
    real: float
    foretold: float

    @property
    def error(self) -> float:
        return abs(self.foretold / self.real - 1)


class Crowd(msgspec.Struct, frozen=True):
    """So many clients, each of which asks again when it is answered: `words` and some 55 tokens in."""

    name: str
    slots: int
    clients: int
    each: int
    words: int
    answer_tokens: int


CROWDS = (
    Crowd("12 clients on 4 slots, 390 in, 48 out", 4, 12, 3, 335, 48),
    Crowd("8 clients on 8 slots, 55 in, 64 out", 8, 8, 4, 0, 64),
)
BESIDE = "4 streams beside a prompt of 2,000"
BESIDE_SLOTS = 5
BESIDE_WORDS = 1945
BESIDE_TOKENS = 1500
FIRST_DELTAS = 8
BEHIND = "a prompt of 18, 1 s behind one of 1,632"
BEHIND_WORDS = 1577

Run = Callable[[Target, list[str]], Awaitable[tuple[Figures, Callable[[Lab], Figures]] | None]]
"""What the clients saw, and how the laboratory foretells it; None where a run was void."""


async def against(bed: Bed, plan: Plan) -> Sheet:
    """Every run, as often as asked for, and what the laboratory makes of it."""
    rows: list[AgainstRow] = []
    broken: list[str] = []
    runs: list[tuple[str, int, Run]] = [(crowd.name, crowd.slots, _crowd_run(crowd)) for crowd in CROWDS]
    runs += [(BESIDE, BESIDE_SLOTS, _beside_run), (BEHIND, 4, behind_run)]
    for _ in range(plan.repeats):
        for name, slots, run in runs:
            rows += await compare(bed, name, slots, run, broken)
            dot()
    by_figure: dict[tuple[str, str], list[AgainstRow]] = {}
    for row in rows:
        by_figure.setdefault((row.run, row.figure), []).append(row)
    errors = [median(row.error for row in of_one) for of_one in by_figure.values()]
    return Sheet(
        name="policy against real runs",
        columns=["run", "figure", "seen", "foretold", "foretold / seen"],
        cells=[_cells(of_one) for of_one in by_figure.values()],
        rows=rows,
        goals=[Goal("|foretold / seen - 1|, worst", NEAR, max(errors, default=None), True)],
        definitions="""\
Seen: by the clients of a server on the real model, without drafts; medians of the repetitions. Foretold: by
  the laboratory, for the same requests, on the curves that the engine of that very run had learned at its
  end. Beside: gaps of the streams from when the prompt is sent to its first token.""",
        broken=broken,
    )


def _cells(rows: Sequence[AgainstRow]) -> list[str]:
    real, foretold = median(row.real for row in rows), median(row.foretold for row in rows)
    digits = 1 if real >= 10 else 2
    ratio = median(row.foretold / row.real for row in rows)
    return [
        rows[0].run,
        rows[0].figure,
        number(real, digits),
        number(foretold, digits),
        number(ratio, 2),
    ]


async def compare(bed: Bed, name: str, slots: int, run: Run, broken: list[str]) -> list[AgainstRow]:
    """One run, and what the laboratory says of it; `broken` is told of what was not as it should be."""
    with TemporaryFile() as log:
        async with bed.server("--slots", str(slots), "--log-level", "debug", *NO_DRAFTS, log=log) as server:
            await ask(server.target, PromptSource().tiny(), broken)
            seen = await run(server.target, broken)
        log.seek(0)
        text = log.read().decode(errors="replace")
    if seen is None:
        broken.append(f"{name}: void, an answer is missing or ended too early")
        return []
    try:
        machine = learned(text)
    except ValueError as error:
        broken.append(f"{name}: {error} in what the server wrote")
        return []
    real, foretell = seen
    foretold = foretell(_lab(machine, bed, slots))
    return [AgainstRow(name, figure, real[figure], foretold[figure]) for figure in real]


def _lab(machine: Machine, bed: Bed, slots: int) -> Lab:
    return Lab(machine, engine_options([*NO_DRAFTS, *bed.flags], slots))


# Runs


def _crowd_run(crowd: Crowd) -> Run:
    async def run(target: Target, broken: list[str]) -> tuple[Figures, Callable[[Lab], Figures]] | None:
        prompts = PromptSource()
        answers: dict[int, list[Answer]] = {client: [] for client in range(crowd.clients)}

        async def ask_on(client: int) -> None:
            for prompt in prompts.take(crowd.each, words=crowd.words):
                request = Chat(prompt, crowd.answer_tokens, temperature=0.0, stream=True)
                answers[client].append(await chat(target, request))

        async with trio.open_nursery() as nursery:
            for client in answers:
                nursery.start_soon(ask_on, client)
        every = [answer for own in answers.values() for answer in own]
        broken += [answer.fate for answer in every if not answer.is_whole or answer.usage is None]
        lengths = {
            client: [
                (answer.usage.prefilled_tokens, answer.usage.completion_tokens)
                for answer in own
                if answer.usage is not None
            ]
            for client, own in answers.items()
        }
        if not all(lengths.values()):
            return None
        began_s = min(answer.sent_s for answer in every)
        ended_s = max(answer.ended_s or 0.0 for answer in every) - began_s
        return _crowd_figures(
            [(answer.sent_s, answer.content_s, answer.completion_tokens) for answer in every], ended_s
        ), lambda lab: _foretold_crowd(lab, lengths)

    return run


def _foretold_crowd(lab: Lab, lengths: dict[int, list[tuple[int, int]]]) -> Figures:
    record = lab.run(Closed(lengths, turnaround_s=TURNAROUND_S))
    seen = [(stream.ask.at_s, stream.said_s, stream.said_tokens) for stream in record.streams]
    return _crowd_figures(seen, record.ended_s)


def _crowd_figures(seen: Sequence[tuple[float, Sequence[float], int]], ended_s: float) -> Figures:
    """Of each request when it was sent, when something was said of its answer, and how many tokens in all."""
    ttfts = [said_s[0] - sent_s for sent_s, said_s, _ in seen if said_s]
    between = [1e3 * gap for _, said_s, _ in seen for gap in gaps(said_s)]
    return {
        "tokens/s": sum(tokens for _, _, tokens in seen) / ended_s,
        "TTFT p50 s": percentile(ttfts, 0.5),
        "TTFT p95 s": percentile(ttfts, 0.95),
        "gap p50 ms": percentile(between, 0.5),
        "gap p95 ms": percentile(between, 0.95),
    }


async def _beside_run(target: Target, broken: list[str]) -> tuple[Figures, Callable[[Lab], Figures]] | None:
    prompts = PromptSource()
    count = BESIDE_SLOTS - 1
    streams: list[Answer] = []
    leaving = [trio.CancelScope() for _ in range(count)]
    decoding = DeltaGate(count, FIRST_DELTAS)

    async def stream(prompt: list[dict[str, str]], scope: trio.CancelScope) -> None:
        request = Chat(prompt, BESIDE_TOKENS, temperature=0.0, stream=True)
        streams.append(await chat(target, request, POLITE, leaving=scope, watch=decoding))
        decoding.over()

    async with trio.open_nursery() as nursery:
        for prompt, scope in zip(prompts.take(count), leaving, strict=True):
            nursery.start_soon(stream, prompt, scope)
        await decoding.opened.wait()
        beside = await ask(target, prompts.take(1, words=BESIDE_WORDS)[0], broken)
        for scope in leaving:
            scope.cancel()
    if beside.answered_s is None or beside.usage is None:
        return None
    if any(answer.ending != "left" for answer in streams):
        return None
    long_tokens = beside.usage.prefilled_tokens
    after_s = beside.sent_s - min(answer.sent_s for answer in streams)

    def foretell(lab: Lab) -> Figures:
        asks = [Ask(0.0, 55, BESIDE_TOKENS, client) for client in range(count)]
        record = lab.run(Listed([*asks, Ask(after_s, long_tokens, 1, count)]), until_s=after_s + 60.0)
        [long] = [one for one in record.streams if one.ask.client == count]
        return _beside_figures(
            [one.said_s for one in record.streams if one is not long], after_s, long.said_s[0] - after_s
        )

    return _beside_figures(
        [answer.content_s for answer in streams], beside.sent_s, beside.answered_s
    ), foretell


def _beside_figures(said_s: Sequence[Sequence[float]], sent_s: float, ttft_s: float) -> Figures:
    """Of the streams when they said something; of the prompt when it was sent, and its time to a token."""
    between = [1e3 * gap for own in said_s for gap in gaps_within(own, sent_s, sent_s + ttft_s)]
    return {
        "TTFT s": ttft_s,
        "gap p50 ms": percentile(between, 0.5),
        "gap p95 ms": percentile(between, 0.95),
    }


async def behind_run(target: Target, broken: list[str]) -> tuple[Figures, Callable[[Lab], Figures]] | None:
    """A short prompt, 1 s behind a long one."""
    prompts = PromptSource()
    long, short = prompts.take(1, words=BEHIND_WORDS)[0], prompts.tiny()
    answers: list[Answer] = []

    async def first() -> None:
        answers.append(await ask(target, long, broken))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await trio.sleep(1.0)
        behind = await ask(target, short, broken)
    [before] = answers
    if behind.answered_s is None or before.answered_s is None or before.usage is None or behind.usage is None:
        return None
    after_s = behind.sent_s - before.sent_s
    asks = [
        Ask(0.0, before.usage.prefilled_tokens, 1, 0),
        Ask(after_s, behind.usage.prefilled_tokens, 1, 1),
    ]

    def foretell(lab: Lab) -> Figures:
        ttft_s = {one.ask.client: one.said_s[0] - one.ask.at_s for one in lab.run(Listed(asks)).streams}
        return {"its TTFT s": ttft_s[1], "the long one's TTFT s": ttft_s[0]}

    return {"its TTFT s": behind.answered_s, "the long one's TTFT s": before.answered_s}, foretell
