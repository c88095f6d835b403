"""What streams in each other's company gain and lose: a shared system prompt, and a long prefill beside.

Each function starts the server it needs (or takes the peer as it is), measures on it, and returns a sheet.
What is compared is measured in turns within one repetition; the median of the repetitions' ratios counts.
"""

from collections.abc import Sequence

import msgspec
import trio

from benchrun import PromptSource, Watch, ask, dot, why
from figures import Threshold, gaps, percentile
from loadclient import Chat, Habit, Target, chat
from serverproc import Bed
from sheet import Sheet, load_average, middle, number
from sse import Answer

SHARED_WORDS = 980
TOGETHER = 8
LONG_WORDS = 1945
PACED_STREAMS = 4
PACED_TOKENS = 1500
FIRST_DELTAS = 8  # after which a stream counts as decoding
ALONE_S = 2.0
ATTEMPTS = 3


class SharedRow(msgspec.Struct, frozen=True):
    """One repetition: requests with one system prompt, and with as many of the same length."""

    ttft_p95_ms: float
    apart_ttft_p95_ms: float
    prompt_tokens: int
    prefilled_tokens: int
    apart_prompt_tokens: int
    apart_prefilled_tokens: int

    @property
    def ratio(self) -> float:
        return self.ttft_p95_ms / self.apart_ttft_p95_ms


async def shared(bed: Bed) -> Sheet:
    """Requests that share a system prompt and arrive together, against such that share none."""
    load = load_average()
    prompts = PromptSource()
    rows: list[SharedRow] = []
    broken: list[str] = []
    async with bed.server("--slots", str(TOGETHER), "--ctx-tokens", "16384") as target:
        await ask(target, prompts.tiny(), broken)
        for repetition in range(bed.repeats):
            one = prompts.shared(TOGETHER, words=SHARED_WORDS)
            many = prompts.apart(TOGETHER, words=SHARED_WORDS)
            if repetition % 2:
                apart = await _together(target, many, broken)
                same = await _together(target, one, broken)
            else:
                same = await _together(target, one, broken)
                apart = await _together(target, many, broken)
            dot()
            if len(same) == len(apart) == TOGETHER:
                rows.append(_shared_row(same, apart))
    return Sheet(
        name="shared",
        columns=[
            "TTFT p95 ms",
            "apart: TTFT p95 ms",
            "ratio",
            "tokens in",
            "prefilled",
            "apart: in",
            "prefilled",
        ],
        cells=[
            [
                number(row.ttft_p95_ms, 0),
                number(row.apart_ttft_p95_ms, 0),
                number(row.ratio, 3),
                str(row.prompt_tokens),
                str(row.prefilled_tokens),
                str(row.apart_prompt_tokens),
                str(row.apart_prefilled_tokens),
            ]
            for row in rows
        ],
        rows=rows,
        goals=[Threshold("TTFT p95, shared / apart", 0.35, middle([row.ratio for row in rows]), True)],
        definitions=f"""\
{TOGETHER} requests of one output token at the same moment, with one new system prompt of some 1,000
  tokens and a question each; apart: with a system prompt each, of the same length. In and prefilled: sums
  of usage.prompt_tokens, and of what is left of it without cached_tokens.""",
        load_average=load,
        broken=broken,
    )


async def _together(
    target: Target, conversations: Sequence[list[dict[str, str]]], broken: list[str]
) -> list[Answer]:
    """All at once; those answers that were whole."""
    answers: list[Answer] = []

    async def one(conversation: list[dict[str, str]]) -> None:
        answer = await ask(target, conversation, broken)
        if answer.answered_s is not None and answer.usage is not None:
            answers.append(answer)

    async with trio.open_nursery() as nursery:
        for conversation in conversations:
            nursery.start_soon(one, conversation)
    return answers


def _shared_row(same: Sequence[Answer], apart: Sequence[Answer]) -> SharedRow:
    def p95_ms(answers: Sequence[Answer]) -> float:
        return percentile(
            [1e3 * answer.answered_s for answer in answers if answer.answered_s is not None], 0.95
        )

    return SharedRow(
        ttft_p95_ms=p95_ms(same),
        apart_ttft_p95_ms=p95_ms(apart),
        prompt_tokens=sum(answer.usage.prompt_tokens for answer in same if answer.usage),
        prefilled_tokens=sum(answer.usage.prefilled_tokens for answer in same if answer.usage),
        apart_prompt_tokens=sum(answer.usage.prompt_tokens for answer in apart if answer.usage),
        apart_prefilled_tokens=sum(answer.usage.prefilled_tokens for answer in apart if answer.usage),
    )


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


async def pace(bed: Bed) -> Sheet:
    """What a long prefill does to decoding streams, and they to it."""
    load = load_average()
    prompts = PromptSource()
    rows: list[PaceRow] = []
    broken: list[str] = []
    void = 0
    async with bed.server("--slots", str(PACED_STREAMS + 1)) as target:
        await ask(target, prompts.tiny(), broken)
        for _ in range(bed.repeats):
            for _ in range(ATTEMPTS):
                row = await _pace_round(target, prompts, broken)
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
        goals=[Threshold("inter-token p95, beside / alone", 3, middle([row.ratio for row in rows]), True)],
        definitions=f"""\
{PACED_STREAMS} streams decode; {ALONE_S:g} s later a prompt of some 2,000 tokens is sent. alone: gaps
  between their deltas before it is sent; beside: from then until its first token. TTFT alone: of such a
  prompt on the idle server; loss: how many times longer it takes beside the streams. A draft that is
  right comes as several deltas at once, whose gaps are 0: with `-- --prompt-lookup false` every gap is a
  step.""",
        load_average=load,
        broken=broken if rows else [*broken, "the streams never lasted long enough"],
        notes=[f"{void} rounds void: a stream ended too early"] if void else [],
    )


async def _pace_round(target: Target, prompts: PromptSource, broken: list[str]) -> PaceRow | None:
    """One repetition; None if a stream was over before the prefill was."""
    alone = await ask(target, prompts.take(1, words=LONG_WORDS)[0], broken)
    streams: list[Answer] = []
    leaving = [trio.CancelScope() for _ in range(PACED_STREAMS)]
    decoding = Watch(PACED_STREAMS, FIRST_DELTAS)

    async def stream(prompt: list[dict[str, str]], scope: trio.CancelScope) -> None:
        request = Chat(prompt, PACED_TOKENS, temperature=0.0, stream=True)
        streams.append(await chat(target, request, Habit(), leaving=scope, watch=decoding))
        decoding.over()

    async with trio.open_nursery() as nursery:
        for prompt, scope in zip(prompts.take(PACED_STREAMS), leaving, strict=True):
            nursery.start_soon(stream, prompt, scope)
        await decoding.ready.wait()
        began_s = trio.current_time()
        await trio.sleep(ALONE_S)
        beside = await ask(target, prompts.take(1, words=LONG_WORDS)[0], broken)
        for scope in leaving:
            scope.cancel()
    if alone.answered_s is None or beside.answered_s is None or beside.usage is None:
        return None
    if any(answer.ending != "left" for answer in streams):
        broken += [why(answer) for answer in streams if answer.ending not in ("left", "done")]
        return None
    sent_s = beside.sent_s
    before = [1e3 * gap for answer in streams for gap in _gaps_within(answer, began_s, sent_s)]
    during = [
        1e3 * gap for answer in streams for gap in _gaps_within(answer, sent_s, sent_s + beside.answered_s)
    ]
    return PaceRow(
        gap_p50_ms=percentile(before, 0.5),
        gap_p95_ms=percentile(before, 0.95),
        beside_p50_ms=percentile(during, 0.5),
        beside_p95_ms=percentile(during, 0.95),
        ttft_ms=1e3 * alone.answered_s,
        beside_ttft_ms=1e3 * beside.answered_s,
        prefilled_tokens=beside.usage.prefilled_tokens,
    )


def _gaps_within(answer: Answer, begin_s: float, end_s: float) -> list[float]:
    """Gaps of a stream that lie in an interval, with the one that begins in it and ends behind it."""
    inside = [at for at in answer.content_s if begin_s <= at <= end_s]
    after = [at for at in answer.content_s if at > end_s][:1]
    return gaps(inside + after)
