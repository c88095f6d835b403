"""How long one request waits that comes behind all those of another client."""

from dataclasses import replace

import msgspec
import trio

from tools.clients.http1 import chat
from tools.clients.prompts import PromptSource
from tools.clients.sse import Answer
from tools.clients.target import Chat, Target
from tools.measures.bed import Bed, dot
from tools.measures.plan import Plan
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, middle, number

SLOTS = 4
STEP_MS = 10.0
ANSWER_TOKENS = 60
KEYS = ("crowd", "another")


class FairRow(msgspec.Struct, frozen=True):
    """One repetition: the other client's wait, what one answer takes, and who was let in before it."""

    before: int
    wait_s: float
    turn_s: float
    let_in_before: int

    @property
    def turns(self) -> float:
        return self.wait_s / self.turn_s


async def fair(bed: Bed, plan: Plan) -> Sheet:
    """One client has many requests in line; another asks once."""
    rows: list[FairRow] = []
    broken: list[str] = []
    flags = ("--slots", str(SLOTS), "--queue-requests", "1000", "--api-keys", ",".join(KEYS))
    async with bed.scripted(*flags, step_ms=STEP_MS) as server:
        crowd, another = (replace(server.target, api_key=key) for key in KEYS)
        for _ in range(plan.repeats):
            many, one = await _asked(crowd, another, plan.crowd_requests)
            dot()
            broken += [answer.fate for answer in (*many, one) if not answer.is_whole]
            if one.served_s is None or any(answer.served_s is None for answer in many):
                broken.append("nobody said when it was served")
                continue
            served_s = sorted(answer.served_s for answer in many if answer.served_s is not None)
            turns_s = [
                answer.ended_s - answer.served_s
                for answer in many
                if answer.ended_s is not None and answer.served_s is not None
            ]
            rows.append(
                FairRow(
                    before=sum(at_s >= one.sent_s for at_s in served_s),
                    wait_s=one.served_s - one.sent_s,
                    turn_s=middle(turns_s) or 0.0,
                    let_in_before=sum(one.sent_s < at_s < one.served_s for at_s in served_s),
                )
            )
    return Sheet(
        name="fair",
        columns=["in line before", "waited s", "a turn s", "turns", "let in before it"],
        cells=[
            [
                str(row.before),
                number(row.wait_s, 2),
                number(row.turn_s, 2),
                number(row.turns, 2),
                str(row.let_in_before),
            ]
            for row in rows
        ],
        rows=rows,
        goals=[Goal("turns that it waited, most", 1.0, max((row.turns for row in rows), default=None), True)],
        definitions=f"""\
A client with a key of its own sends {plan.crowd_requests} requests at once, for {ANSWER_TOKENS} tokens each,
  on {SLOTS} slots of the scripted engine ({STEP_MS:g} ms a step). A quarter of a turn later another client
  sends one. Waited: until its stream says that its prompt is worked on. A turn: from that to the end of an
  answer, median. Let in before it: requests of the first client that got a slot in between.""",
        broken=broken,
    )


async def _asked(crowd: Target, another: Target, count: int) -> tuple[list[Answer], Answer]:
    """The answers of the many, and of the one."""
    prompts = PromptSource()
    many: list[Answer] = []

    async def ask(target: Target, prompt: list[dict[str, str]]) -> Answer:
        request = Chat(prompt, ANSWER_TOKENS, temperature=0.0, stream=True, return_progress=True)
        return await chat(target, request)

    async def ask_one_of_many(prompt: list[dict[str, str]]) -> None:
        many.append(await ask(crowd, prompt))

    async with trio.open_nursery() as nursery:
        for prompt in prompts.take(count):
            nursery.start_soon(ask_one_of_many, prompt)
        await trio.sleep(ANSWER_TOKENS * STEP_MS / 1e3 / 4)
        [prompt] = prompts.take(1)
        one = await ask(another, prompt)
    return many, one
