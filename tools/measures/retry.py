"""What the retry of an abandoned prefill computes again."""

import msgspec

from tools.clients.asking import ask
from tools.clients.habits import Habit
from tools.clients.http1 import chat
from tools.clients.prompts import PromptSource
from tools.clients.target import Chat
from tools.measures.bed import Bed, dot
from tools.measures.plan import Plan
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, middle, number

WORDS = 1500


class RetryRow(msgspec.Struct, frozen=True):
    """One repetition."""

    prompt_tokens: int
    prefilled_tokens: int
    whole_ttft_ms: float
    left_after_ms: float
    retry_ttft_ms: float

    @property
    def share(self) -> float:
        """What the retry had to compute, of the whole prompt."""
        return self.prefilled_tokens / max(1, self.prompt_tokens)


async def retry(bed: Bed, plan: Plan) -> Sheet:
    """A prefill abandoned halfway and asked for again: how much of it is computed twice."""
    prompts = PromptSource()
    rows: list[RetryRow] = []
    broken: list[str] = []
    async with bed.target("--slots", "1") as target:
        await ask(target, prompts.tiny(), broken)
        for _ in range(plan.repeats):
            whole = await ask(target, prompts.take(1, words=WORDS)[0], broken)
            half = await ask(target, prompts.take(1, words=WORDS // 2)[0], broken)
            [prompt] = prompts.take(1, words=WORDS)
            habit = Habit(leave_after_s=half.answered_s)
            left = await chat(target, Chat(prompt, 16, temperature=0.0, stream=True), habit)
            if left.ending != "left" or left.content_s:
                broken.append(f"it was not abandoned in its prefill: {left.ending}")
            again = await ask(target, prompt, broken)
            dot()
            if again.usage is not None:
                rows.append(
                    RetryRow(
                        prompt_tokens=again.usage.prompt_tokens,
                        prefilled_tokens=again.usage.prefilled_tokens,
                        whole_ttft_ms=1e3 * (whole.answered_s or 0.0),
                        left_after_ms=1e3 * (half.answered_s or 0.0),
                        retry_ttft_ms=1e3 * (again.answered_s or 0.0),
                    )
                )
    return Sheet(
        name="retry",
        columns=[
            "prompt tokens",
            "prefilled by the retry",
            "share",
            "TTFT ms",
            "left after ms",
            "TTFT of the retry ms",
        ],
        cells=[
            [
                str(row.prompt_tokens),
                str(row.prefilled_tokens),
                number(row.share, 3),
                number(row.whole_ttft_ms, 0),
                number(row.left_after_ms, 0),
                number(row.retry_ttft_ms, 0),
            ]
            for row in rows
        ],
        rows=rows,
        goals=[Goal("share prefilled by the retry", 0.55, middle([row.share for row in rows]), True)],
        definitions=f"""\
A prompt of {WORDS:,} words is asked, abandoned, and asked again at once. It is abandoned after the time
  that a prompt of half as many words took to its first token just before: halfway by tokens, not by time,
  since later tokens cost more. Prefilled: usage.prompt_tokens minus cached_tokens. TTFT: of one that
  nobody abandons.""",
        broken=broken,
    )
