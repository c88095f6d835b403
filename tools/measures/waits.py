"""What those in line are told of their wait, held against what came.

The arrivals are the same in every run: drawn, in calm and busy spells, and as they were recorded elsewhere.
How long an answer will be stands in the prompt, where only the scripted engine looks.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio

from tools.clients.http1 import chat
from tools.clients.prompts import filler
from tools.clients.sse import Answer
from tools.clients.target import Chat, Target
from tools.measures.arrivals import ARRIVALS_STEP_MS, Arrival, drawn, recorded
from tools.measures.bed import Bed, dot
from tools.measures.plan import Plan
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, middle, number
from tools.sheets.summary import percentile

SLOTS = 4
AHEAD_S = 1.0
"""Of what is told later than so long before the slot, the error is no share of anything."""
GOAL_ERROR = 0.3
GOAL_LEAST = 0.25
ARRIVALS: Final[dict[str, Callable[[int, int], list[Arrival]]]] = {"drawn": drawn, "recorded": recorded}


class Foretold(msgspec.Struct, frozen=True):
    """One thing that was told: the wait in seconds, and the true one. `is_first`: on arrival."""

    told_s: float
    true_s: float
    is_first: bool

    @property
    def ratio(self) -> float:
        return self.told_s / self.true_s

    @property
    def error(self) -> float:
        return abs(self.told_s - self.true_s) / self.true_s


async def waits(bed: Bed, plan: Plan) -> Sheet:
    """Estimates of waits, told in streams, against the truth."""
    rows: dict[str, list[Foretold]] = {name: [] for name in ARRIVALS}
    broken: list[str] = []
    unsaid = 0
    quicker = plan.step_ms / ARRIVALS_STEP_MS
    for name, arrivals in ARRIVALS.items():
        async with bed.scripted(
            "--slots", str(SLOTS), "--queue-requests", "1000", step_ms=plan.step_ms, script="told"
        ) as server:
            for repetition in range(plan.repeats):
                before = 0 if repetition else plan.answers_before
                coming = arrivals(before + plan.arrivals, repetition)
                coming = [msgspec.structs.replace(one, at_s=quicker * one.at_s) for one in coming]
                answers = await _play(server.target, coming, before, repetition)
                for answer in answers:
                    if not answer.is_whole:
                        broken.append(answer.fate)
                    unsaid += sum(wait_s is None for _, wait_s in answer.waits)
                    rows[name] += foretold(answer)
                dot()
    return Sheet(
        name="waits",
        columns=["told", "times", "error p50", "error p90", "told / true: least", "p5", "p95", "most"],
        cells=[cells for name, own in rows.items() for cells in _cells(name, own)],
        rows=[row for own in rows.values() for row in own],
        goals=[goal for name, own in rows.items() for goal in _goals(name, own)],
        definitions=f"""\
{plan.arrivals} requests on {SLOTS} slots of the scripted engine ({plan.step_ms:g} ms a step), drawn in busy
  and calm spells, and as they came to a service of Azure's in 2023; {plan.answers_before} answers were given
  before, one at a time, and nobody names a limit. Told: the estimate of the wait for a slot, in the stream
  (return_progress). True: from then until the stream says that its prompt is worked on. What was told less
  than {AHEAD_S:g} s ahead is left out.""",
        broken=broken,
        notes=[f"no estimate could be given {unsaid} times"] if unsaid else [],
    )


def _goals(name: str, rows: Sequence[Foretold]) -> list[Goal]:
    least = min((row.ratio for row in rows), default=None)
    return [
        Goal(f"{name}: |told - true| / true, median", GOAL_ERROR, middle([row.error for row in rows]), True),
        Goal(f"{name}: told / true, least", GOAL_LEAST, least, False),
    ]


def foretold(answer: Answer) -> list[Foretold]:
    """What a client was told in time. Pure."""
    served_s = answer.served_s
    if served_s is None:
        return []
    return [
        Foretold(told_s, served_s - at_s, index == 0)
        for index, (at_s, told_s) in enumerate(answer.waits)
        if told_s is not None and served_s - at_s >= AHEAD_S
    ]


async def _play(target: Target, coming: Sequence[Arrival], before: int, repetition: int) -> list[Answer]:
    """Ask for each at its time, but for so many `before` that: those one after the other."""
    answers: list[Answer] = []

    async def ask(index: int, arrival: Arrival) -> None:
        unique = f"{arrival.answer_tokens:07} {repetition}-{index}."
        messages = [
            {"role": "system", "content": unique},
            {"role": "user", "content": filler(arrival.words, start=index)},
        ]
        request = Chat(messages, None, temperature=0.0, stream=True, return_progress=True)
        answers.append(await chat(target, request))

    for index, arrival in enumerate(coming[:before]):
        await ask(index, arrival)
    began_s = trio.current_time() - coming[before].at_s
    async with trio.open_nursery() as nursery:
        for index, arrival in enumerate(coming[before:], before):
            await trio.sleep_until(began_s + arrival.at_s)
            nursery.start_soon(ask, index, arrival)
    return answers


def _cells(name: str, rows: Sequence[Foretold]) -> list[list[str]]:
    first = [row for row in rows if row.is_first]
    return [_row(f"{name}, on arrival", first), _row(f"{name}, every second", rows)]


def _row(name: str, rows: Sequence[Foretold]) -> list[str]:
    errors, ratios = [row.error for row in rows], [row.ratio for row in rows]
    return [
        name,
        str(len(rows)),
        number(percentile(errors, 0.5), 3),
        number(percentile(errors, 0.9), 3),
        number(min(ratios, default=None), 3),
        number(percentile(ratios, 0.05), 3),
        number(percentile(ratios, 0.95), 3),
        number(max(ratios, default=None), 2),
    ]
