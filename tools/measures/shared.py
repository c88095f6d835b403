"""A system prompt that many requests share, against as many requests that share nothing.

Both are measured in turns within one repetition; the median of the repetitions' ratios counts.
"""

from collections.abc import Sequence

import msgspec
import trio

from tools.clients.asking import ask
from tools.clients.prompts import PromptSource
from tools.clients.sse import Answer
from tools.clients.target import Target
from tools.measures.bed import Bed, dot
from tools.measures.plan import Plan
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, middle, number
from tools.sheets.summary import percentile

SHARED_WORDS = 980
TOGETHER = 8


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


async def shared(bed: Bed, plan: Plan) -> Sheet:
    """Requests that share a system prompt and arrive together, against such that share none."""
    prompts = PromptSource()
    rows: list[SharedRow] = []
    broken: list[str] = []
    async with bed.target("--slots", str(TOGETHER), "--ctx-tokens", "16384") as target:
        await ask(target, prompts.tiny(), broken)
        for repetition in range(plan.repeats):
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
        goals=[Goal("TTFT p95, shared / apart", 0.35, middle([row.ratio for row in rows]), True)],
        definitions=f"""\
{TOGETHER} requests of one output token at the same moment, with one new system prompt of some 1,000
  tokens and a question each; apart: with a system prompt each, of the same length. In and prefilled: sums
  of usage.prompt_tokens, and of what is left of it without cached_tokens.""",
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
