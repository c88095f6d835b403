"""What a client that leaves costs those who stay: residual busy time, and work done twice.

Each function starts the server it needs (or takes the peer as it is), measures on it, and returns a sheet.
"""

from itertools import product

import msgspec

from benchrun import PromptSource, ask, dot
from figures import Summary, Threshold, summarize
from loadclient import Chat, Habit, Leave, chat
from residual import PHASES, Cell, ResidualProbe
from serverproc import Bed
from sheet import Sheet, load_average, middle, number, spread

WORDS = 1500
ATTEMPTS = 3


class ResidualRow(msgspec.Struct, frozen=True):
    """One cell; milliseconds. `void` rounds are those in which the victim was not in its phase."""

    cell: str
    residual_ms: Summary
    void: int


async def residual(bed: Bed) -> Sheet:
    """How long a server with one slot is still busy with a client that has gone."""
    load = load_average()
    cells = [Cell(*kind) for kind in product(PHASES, (True, False), (Leave.FIN, Leave.RST))]
    seen: dict[Cell, list[float]] = {cell: [] for cell in cells}
    void = dict.fromkeys(cells, 0)
    idle_ms: list[float] = []
    async with bed.server("--slots", "1") as target:
        probe = ResidualProbe(target, victims=1, prompt_tokens=WORDS, output_tokens=2000)
        await probe.calibrate()
        for _ in range(bed.repeats):
            for cell in cells:
                for _ in range(ATTEMPTS):
                    await probe.calibrate_idle(1)
                    idle_ms.append(1e3 * probe.idle_s)
                    residual_s = await probe.measure(cell)
                    dot()
                    if residual_s is not None:
                        seen[cell].append(residual_s)
                        break
                    void[cell] += 1
    rows = [ResidualRow(str(cell), summarize(seen[cell], scale=1e3), void[cell]) for cell in cells]
    return Sheet(
        name="residual",
        columns=["the client leaves", "residual p50/p95 ms", "rounds", "void"],
        cells=[
            [row.cell, spread(row.residual_ms, 1), str(row.residual_ms.count), str(row.void)] for row in rows
        ],
        rows=rows,
        goals=[
            Threshold(
                "residual ms, the worst median", 30, _worst([row.residual_ms.p50 for row in rows]), True
            ),
            Threshold("residual ms, the worst p95", 60, _worst([row.residual_ms.p95 for row in rows]), True),
        ],
        definitions=f"""\
residual: from the client's leaving until a new one-token request of some 25 prompt tokens is answered,
  minus the median of the last such requests on the idle server, one before each round
  ({number(middle(idle_ms), 1)} ms). One slot; the victim's prompt has {WORDS:,} words. queue: the victim
  waits behind a decoding stream and leaves; 50 ms later that one leaves too, and the residual counts from
  there. void: rounds made again, because the victim had text too early or was answered before it left.""",
        load_average=load,
        broken=[f"never seen in its phase: {row.cell}" for row in rows if row.residual_ms.count == 0],
    )


def _worst(values: list[float | None]) -> float | None:
    """The largest; None as soon as one was not measured."""
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None


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


async def retry(bed: Bed) -> Sheet:
    """A prefill abandoned halfway and asked for again: how much of it is computed twice."""
    load = load_average()
    prompts = PromptSource()
    rows: list[RetryRow] = []
    broken: list[str] = []
    async with bed.server("--slots", "1") as target:
        await ask(target, prompts.tiny(), broken)
        for _ in range(bed.repeats):
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
        goals=[Threshold("share prefilled by the retry", 0.55, middle([row.share for row in rows]), True)],
        definitions=f"""\
A prompt of {WORDS:,} words is asked, abandoned, and asked again at once. It is abandoned after the time
  that a prompt of half as many words took to its first token just before: halfway by tokens, not by time,
  since later tokens cost more. Prefilled: usage.prompt_tokens minus cached_tokens. TTFT: of one that
  nobody abandons.""",
        load_average=load,
        broken=broken,
    )
