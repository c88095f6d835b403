"""What readers that stall cost those who read: healthy streams beside them and without them, in turns."""

import msgspec
import trio

from tools.clients.asking import Asker
from tools.clients.http1 import chat
from tools.clients.prompts import PromptSource
from tools.clients.sse import Answer
from tools.clients.target import Chat
from tools.measures.bed import UNLIMITED_LAG, Bed, dot
from tools.measures.plan import Plan
from tools.readers.stalled import StalledReaders
from tools.servers.footprint import thread_times
from tools.servers.server import Server
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, middle, number

STEP_MS = 20.0
ENDLESS_TOKENS = 20_000
SEND_TIMEOUT_S = 10.0
RATIO_GOAL = 0.98


class Healthy(msgspec.Struct, frozen=True):
    """The healthy streams of one turn; `loop_share` is the event loop thread's part of a core."""

    tokens_s: float
    loop_share: float


class BesideRow(msgspec.Struct, frozen=True):
    """One repetition. `came` is how often a stalled reader came."""

    alone: Healthy
    beside: Healthy
    came: int

    @property
    def ratio(self) -> float:
        return self.beside.tokens_s / self.alone.tokens_s


async def beside(bed: Bed, plan: Plan) -> Sheet:
    """Throughput of healthy streams with stalled readers attached, by that without them."""
    broken: list[str] = []
    rows = await _turns(bed, plan, broken)
    return Sheet(
        name=f"{plan.healthy} healthy streams beside {plan.stalled} stalled readers",
        columns=[
            "alone, tokens/s (loop)",
            "beside them, tokens/s (loop)",
            "ratio",
            "stalled readers that came",
        ],
        cells=[[_text(row.alone), _text(row.beside), number(row.ratio, 3), str(row.came)] for row in rows],
        rows=rows,
        goals=[
            Goal(
                "beside stalled readers / alone, the median",
                RATIO_GOAL,
                middle([row.ratio for row in rows]),
                at_most=False,
            )
        ],
        definitions=f"""\
tokens/s of {plan.healthy} streams of {plan.healthy_tokens} tokens, all together, from when the last of them
  has begun to when the first has ended; alone and beside the stalled readers in turns. In brackets: how busy
  the event loop's thread was. The stalled readers' streams are endless, so the engine generates for all
  {plan.healthy + plan.stalled} all the time. They are evicted after {SEND_TIMEOUT_S:g} s (send_timeout_s)
  and ask again at once. The scripted engine begins a step every {STEP_MS:g} ms whatever is in it: what a real
  one computes for more streams is not what is measured.""",
        broken=broken,
    )


async def _turns(bed: Bed, plan: Plan, broken: list[str]) -> list[BesideRow]:
    """Alone and beside them, turn about, on one server."""
    rows: list[BesideRow] = []
    slots = plan.healthy + plan.stalled
    limits = (
        f"--slots={slots}",
        f"--ctx-tokens={2**20}",
        f"--send-timeout-s={SEND_TIMEOUT_S:g}",
        *UNLIMITED_LAG,
    )
    async with bed.scripted(*limits, step_ms=STEP_MS, is_steady=True) as server:
        asker = Asker(server.target)
        for _ in range(plan.repeats):
            alone = await _healthy(server, plan, broken)
            crowd = StalledReaders(server.target, asker.stream(ENDLESS_TOKENS))
            async with crowd.attached(plan.stalled, come_back=True):
                beside = await _healthy(server, plan, broken)
            rows.append(BesideRow(alone, beside, len(crowd.stalls)))
            dot()
    return rows


async def _healthy(server: Server, plan: Plan, broken: list[str]) -> Healthy:
    """One turn of the healthy streams. Cancel-safe."""
    answers: list[Answer] = []

    async def one(prompt: list[dict[str, str]]) -> None:
        request = Chat(prompt, plan.healthy_tokens, temperature=0.0, stream=True)
        answers.append(await chat(server.target, request))

    before, began_s = thread_times(server.pid)[0], trio.current_time()
    async with trio.open_nursery() as nursery:
        for prompt in PromptSource().take(plan.healthy):
            nursery.start_soon(one, prompt)
    loop_s = thread_times(server.pid)[0].cpu_s - before.cpu_s
    broken += [answer.fate for answer in answers if not answer.is_whole]
    return Healthy(together_tokens_s(answers), loop_s / (trio.current_time() - began_s))


def together_tokens_s(answers: list[Answer]) -> float:
    """Deltas per second of all streams, while all of them ran; a delta is a token here. Pure."""
    began_s = max((answer.content_s[0] for answer in answers if answer.content_s), default=0.0)
    ended_s = min((answer.content_s[-1] for answer in answers if answer.content_s), default=0.0)
    deltas = sum(began_s < at_s <= ended_s for answer in answers for at_s in answer.content_s)
    return deltas / (ended_s - began_s) if ended_s > began_s else 0.0


def _text(healthy: Healthy) -> str:
    return f"{healthy.tokens_s:.1f} ({healthy.loop_share:.0%})"
