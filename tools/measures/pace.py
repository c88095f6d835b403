"""Streams beside a long prefill, and it beside them.

What is compared is measured within one repetition; the median of the repetitions' ratios counts.
"""

from dataclasses import dataclass

import msgspec
import trio

from tools.clients.asking import DeltaGate, ask
from tools.clients.habits import POLITE
from tools.clients.http1 import chat
from tools.clients.prompts import PromptSource
from tools.clients.sse import Answer
from tools.clients.target import Chat, Target
from tools.measures.bed import Bed, dot
from tools.measures.plan import Plan
from tools.measures.promised import pace_of, promised_gap_ms
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, middle, number
from tools.sheets.summary import gaps_within, percentile

LONG_WORDS = 1945
PACED_STREAMS = 4
PACED_TOKENS = 1500
FIRST_DELTAS = 8  # after which a stream counts as decoding
ALONE_S = 2.0
ATTEMPTS = 3
MOST_LOSS = 1.8


@dataclass(frozen=True, slots=True)
class PaceAsked:
    """The prompts of one repetition: a long one alone, the streams, and a long one beside them."""

    alone: list[dict[str, str]]
    streams: list[list[dict[str, str]]]
    beside: list[dict[str, str]]

    @classmethod
    def new(cls, prompts: PromptSource) -> "PaceAsked":
        """None of them asked before."""
        [alone, beside] = prompts.take(2, words=LONG_WORDS)
        return cls(alone, prompts.take(PACED_STREAMS), beside)


class PaceRow(msgspec.Struct, frozen=True):
    """One repetition: the streams' gaps alone and beside the prefill, and the prefill's TTFT likewise."""

    gap_p50_ms: float
    gap_p95_ms: float
    beside_p50_ms: float
    beside_p95_ms: float
    ttft_ms: float
    beside_ttft_ms: float
    prefilled_tokens: int

    @property
    def ratio(self) -> float:
        """How much longer the p95 of a gap is beside a prefill."""
        return self.beside_p95_ms / self.gap_p95_ms

    @property
    def loss(self) -> float:
        """How many times longer the prefill takes beside the streams."""
        return self.beside_ttft_ms / self.ttft_ms


async def pace(bed: Bed, plan: Plan) -> Sheet:
    """What a long prefill does to decoding streams, and they to it."""
    prompts = PromptSource()
    rows: list[PaceRow] = []
    broken: list[str] = []
    void = 0
    name = pace_of(bed.flags)
    gap_ms = promised_gap_ms(name)
    async with bed.target("--slots", str(PACED_STREAMS + 1)) as target:
        await ask(target, prompts.tiny(), broken)
        for _ in range(plan.repeats):
            for _ in range(ATTEMPTS):
                row = await pace_round(target, PaceAsked.new(prompts), broken)
                dot()
                if row is not None:
                    rows.append(row)
                    break
                void += 1
    return Sheet(
        name="pace",
        columns=["alone p50/p95 ms", "beside p50/p95 ms", "p95 ratio", "TTFT alone ms", "beside ms", "loss"],
        cells=[
            [
                f"{row.gap_p50_ms:.1f} / {row.gap_p95_ms:.1f}",
                f"{row.beside_p50_ms:.1f} / {row.beside_p95_ms:.1f}",
                number(row.ratio, 2),
                number(row.ttft_ms, 0),
                number(row.beside_ttft_ms, 0),
                number(row.loss, 2),
            ]
            for row in rows
        ],
        rows=rows,
        goals=[
            Goal(
                f"inter-token p95 beside, ms, pace {name}",
                gap_ms,
                middle([row.beside_p95_ms for row in rows]),
                True,
            ),
            Goal("prefill beside / alone", MOST_LOSS, middle([row.loss for row in rows]), True),
        ],
        definitions=f"""\
{PACED_STREAMS} streams decode; {ALONE_S:g} s later a prompt of some 2,000 tokens is sent. alone: gaps
  between their deltas before it is sent; beside: from then until its first token. TTFT alone: of such a
  prompt on the idle server; loss: how many times longer it takes beside the streams. A draft that is
  right comes as several deltas at once, whose gaps are 0: with `-- --prompt-lookup false` every gap is a
  step.""",
        broken=broken if rows else [*broken, "the streams never lasted long enough"],
        notes=[f"{void} rounds void: a stream ended too early"] if void else [],
    )


async def pace_round(target: Target, asked: PaceAsked, broken: list[str]) -> PaceRow | None:
    """One repetition; None if a stream was over before the prefill was."""
    alone = await ask(target, asked.alone, broken)
    streams: list[Answer] = []
    leaving = [trio.CancelScope() for _ in range(PACED_STREAMS)]
    decoding = DeltaGate(PACED_STREAMS, FIRST_DELTAS)

    async def stream(prompt: list[dict[str, str]], scope: trio.CancelScope) -> None:
        request = Chat(prompt, PACED_TOKENS, temperature=0.0, stream=True)
        streams.append(await chat(target, request, POLITE, leaving=scope, watch=decoding))
        decoding.over()

    async with trio.open_nursery() as nursery:
        for prompt, scope in zip(asked.streams, leaving, strict=True):
            nursery.start_soon(stream, prompt, scope)
        await decoding.opened.wait()
        began_s = trio.current_time()
        await trio.sleep(ALONE_S)
        beside = await ask(target, asked.beside, broken)
        for scope in leaving:
            scope.cancel()
    if alone.answered_s is None or beside.answered_s is None or beside.usage is None:
        return None
    if any(answer.ending != "left" for answer in streams):
        broken += [answer.fate for answer in streams if answer.ending not in ("left", "done")]
        return None
    sent_s = beside.sent_s
    until_s = sent_s + beside.answered_s
    times = [answer.content_s for answer in streams]
    before = [1e3 * gap for own in times for gap in gaps_within(own, began_s, sent_s)]
    during = [1e3 * gap for own in times for gap in gaps_within(own, sent_s, until_s)]
    return PaceRow(
        gap_p50_ms=percentile(before, 0.5),
        gap_p95_ms=percentile(before, 0.95),
        beside_p50_ms=percentile(during, 0.5),
        beside_p95_ms=percentile(during, 0.95),
        ttft_ms=1e3 * alone.answered_s,
        beside_ttft_ms=1e3 * beside.answered_s,
        prefilled_tokens=beside.usage.prefilled_tokens,
    )
