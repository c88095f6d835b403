"""The loads that two servers are held against each other with: what is asked, and what is looked at.

A load draws what it asks once in every round; then each server gets that very script in turn.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import msgspec
import trio

from tools.clients.http1 import chat
from tools.clients.prompts import PromptSource
from tools.clients.sse import Answer
from tools.clients.target import Target
from tools.measures.demand import STAYS, Question, Round, ask_all, fixed, timed
from tools.measures.pace import PaceAsked, pace_round
from tools.measures.plan import Plan
from tools.sheets.sheet import middle

SLOTS = 4
CTX_TOKENS = 16_384
CLIENTS = 12
LOOKED_UP_WORDS = 335  # some 390 tokens with their question
LONG_WORDS = 1445  # 1,500
ANSWER_TOKENS = 48
VARIED_TOKENS = (16, 80)
SHORT_TOKENS = 64
PATIENCE_S = (0.1, 3.0)
TURNS = 5
BEHIND_WORDS = 1577  # 1,632 tokens
BEHIND_TOKENS = 8
ATTEMPTS = 3


class Seen(msgspec.Struct, frozen=True):
    """What one round showed: each figure by its name, None where it was not to be seen.

    Tokens are medians of one answer. `client_cpu` is what the clients took of one core.
    """

    figures: dict[str, float | None]
    answers: int = 0
    left: int = 0
    prompt_tokens: float | None = None
    cached_tokens: float | None = None
    wall_s: float = 0.0
    client_cpu: float | None = None
    broken: list[str] = []


Script = Callable[[Target], Awaitable[Seen]]
"""One round, drawn and ready to be played to a server."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A Script of so many clients, who go on asking until all has been asked."""

    questions: Sequence[Question]
    clients: int

    async def __call__(self, target: Target) -> Seen:
        round_ = await ask_all(target, self.questions, self.clients)
        figures = {
            RATE: round_.tokens_s,
            TTFT: round_.ttft_p50_s,
            GAP: round_.longest_gap_s,
            ANSWERS: round_.answers_min,
        }
        return _seen(round_, figures)


Draw = Callable[[PromptSource, Random, Plan], Script]


@dataclass(frozen=True, slots=True)
class Looked:
    """A figure that is looked at: its name and unit, and what it is held against at each pace.

    `by_peer`: the limit is of the ratio to the peer's, else of the figure itself. `is_rate`: more is better.
    `is_worst`: of several rounds the largest counts, else the median. `limits` by the name of the pace.
    """

    name: str
    limits: Mapping[str, float]
    by_peer: bool = True
    is_rate: bool = False
    is_worst: bool = False
    digits: int = 2


@dataclass(frozen=True, slots=True)
class Load:
    """A load: what is drawn for a round, what is looked at, and the slots and the context that it needs."""

    about: str
    draw: Draw
    looked: Sequence[Looked]
    slots: int = SLOTS
    ctx_tokens: int = CTX_TOKENS


def _limits(balanced: float, throughput: float | None = None) -> dict[str, float]:
    limits = {"balanced": balanced}
    return limits if throughput is None else limits | {"throughput": throughput}


RATE, GAP, TTFT = "tokens/s", "longest gap s", "TTFT p50 s"
ANSWERS, TO_THE_END = "whole answers/min", "to the end s"
TTFT_WORST, GAP_P95, LOSS = "TTFT worst s", "gap p95 ms", "prefill, times as long"


def _seen(round_: Round, figures: dict[str, float | None]) -> Seen:
    usages = sorted(
        (answer.usage.prompt_tokens, answer.usage.cached_tokens) for answer in round_.answers if answer.usage
    )
    middle = usages[len(usages) // 2] if usages else (None, None)
    return Seen(
        figures=figures,
        answers=len(round_.answers),
        left=round_.left,
        prompt_tokens=middle[0],
        cached_tokens=middle[1],
        wall_s=round_.wall_s,
        client_cpu=round_.client_cpu_s / round_.wall_s if round_.wall_s else None,
        broken=round_.broken,
    )


def _some(count: int, plan: Plan) -> int:
    return max(1, round(count * plan.load_share))


def _closed(clients: int, draw: Callable[[PromptSource, Random, Plan], list[Question]]) -> Draw:
    def drawn(prompts: PromptSource, random: Random, plan: Plan) -> Script:
        return Closed(draw(prompts, random, plan), clients)

    return drawn


def _retrieval(prompts: PromptSource, _random: Random, plan: Plan) -> list[Question]:
    asked = prompts.looked_up(_some(36, plan), words=LOOKED_UP_WORDS)
    return [Question(prompt, ANSWER_TOKENS) for prompt in asked]


def _varied(prompts: PromptSource, random: Random, plan: Plan) -> list[Question]:
    """Nobody's answers are all of one length, in step with each other."""
    asked = prompts.looked_up(_some(36, plan), words=LOOKED_UP_WORDS)
    return [Question(prompt, random.randint(*VARIED_TOKENS)) for prompt in asked]


def _long(prompts: PromptSource, _random: Random, plan: Plan) -> list[Question]:
    asked = prompts.looked_up(_some(12, plan), words=LONG_WORDS)
    return [Question(prompt, ANSWER_TOKENS) for prompt in asked]


def _short(count: int) -> Callable[[PromptSource, Random, Plan], list[Question]]:
    def draw(prompts: PromptSource, _random: Random, plan: Plan) -> list[Question]:
        return [Question(prompt, SHORT_TOKENS) for prompt in prompts.take(_some(count, plan))]

    return draw


def impatient(prompts: PromptSource, random: Random, plan: Plan) -> list[Question]:
    """Every other one is asked by somebody who gives up twice, and stays the third time."""
    asked = prompts.looked_up(_some(24, plan), words=LOOKED_UP_WORDS)
    return [
        Question(
            prompt,
            ANSWER_TOKENS,
            (random.uniform(*PATIENCE_S), random.uniform(*PATIENCE_S), None) if index % 2 else STAYS,
        )
        for index, prompt in enumerate(asked)
    ]


def fickle(prompts: PromptSource, random: Random, plan: Plan) -> list[Question]:
    """Of ten six are given up, whichever these are."""
    asked = prompts.looked_up(_some(60, plan), words=LOOKED_UP_WORDS)
    given_up = set(random.sample(range(len(asked)), round(0.6 * len(asked))))
    return [
        Question(prompt, ANSWER_TOKENS, (random.uniform(*PATIENCE_S),) if index in given_up else STAYS)
        for index, prompt in enumerate(asked)
    ]


def _talk(prompts: PromptSource, _random: Random, plan: Plan) -> Script:
    conversations = prompts.talks(_some(8, plan), turns=TURNS, words=80, shared_words=300)

    async def play(target: Target) -> Seen:
        round_ = Round()

        async def talk(system: dict[str, str], said: list[dict[str, str]]) -> None:
            so_far = [system]
            for turn in said:
                so_far.append(turn)
                answer = await chat(target, fixed(so_far, ANSWER_TOKENS))
                round_.take(answer, ANSWER_TOKENS)
                so_far.append({"role": "assistant", "content": answer.text})

        with timed(round_):
            async with trio.open_nursery() as nursery:
                for system, *said in conversations:
                    nursery.start_soon(talk, system, said)
        return _seen(round_, {TO_THE_END: round_.wall_s, TTFT: round_.ttft_p50_s, GAP: round_.longest_gap_s})

    return play


def _behind(prompts: PromptSource, _random: Random, plan: Plan) -> Script:
    tries = [(prompts.looked_up(1, words=BEHIND_WORDS)[0], prompts.tiny()) for _ in range(_some(5, plan))]

    async def play(target: Target) -> Seen:
        round_ = Round()
        waited_s: list[float] = []
        with timed(round_):
            for long, short in tries:
                ttft_s = await _wait_behind(target, round_, long, short, plan.behind_s)
                if ttft_s is not None:
                    waited_s.append(ttft_s)
        figures = {TTFT: middle(waited_s), TTFT_WORST: max(waited_s, default=None)}
        return _seen(round_, figures)

    return play


async def _wait_behind(
    target: Target, round_: Round, long: list[dict[str, str]], short: list[dict[str, str]], behind_s: float
) -> float | None:
    """What the short one waits; None where the long one was computed before it came."""
    first: list[Answer] = []

    async def ask_long() -> None:
        first.append(await chat(target, fixed(long, ANSWER_TOKENS)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_long)
        await trio.sleep(behind_s)
        behind = await chat(target, fixed(short, BEHIND_TOKENS))
    round_.take(first[0], ANSWER_TOKENS)
    round_.take(behind, BEHIND_TOKENS)
    has_met = bool(first[0].content_s) and first[0].content_s[0] > behind.sent_s
    return behind.ttft_s if has_met else None


def _beside(prompts: PromptSource, _random: Random, _plan: Plan) -> Script:
    asked = [PaceAsked.new(prompts) for _ in range(ATTEMPTS)]

    async def play(target: Target) -> Seen:
        round_ = Round()
        figures: dict[str, float | None] = {GAP_P95: None, LOSS: None}
        with timed(round_):
            for each in asked:
                row = await pace_round(target, each, round_.broken)
                if row is not None:
                    figures = {GAP_P95: row.beside_p95_ms, LOSS: row.loss}
                    break
        return _seen(round_, figures)

    return play


LOADS: dict[str, Load] = {
    "retrieval": Load(
        f"{CLIENTS} clients, some 390 tokens in, {ANSWER_TOKENS} out",
        _closed(CLIENTS, _retrieval),
        (
            Looked(RATE, _limits(0.95, 1.0), is_rate=True, digits=1),
            Looked(TTFT, _limits(1.05, 1.0)),
            Looked(GAP, _limits(0.5, 1.0)),
        ),
    ),
    "varied": Load(
        f"as retrieval, but answers are {VARIED_TOKENS[0]} to {VARIED_TOKENS[1]} tokens long",
        _closed(CLIENTS, _varied),
        (
            Looked(RATE, _limits(0.95, 1.0), is_rate=True, digits=1),
            Looked(TTFT, _limits(1.05, 1.0)),
            Looked(GAP, _limits(0.5, 1.0)),
        ),
    ),
    "long": Load(
        f"6 clients, some 1,500 tokens in, {ANSWER_TOKENS} out",
        _closed(6, _long),
        (
            Looked(RATE, _limits(0.95, 1.0), is_rate=True, digits=1),
            Looked(GAP, _limits(0.5)),
            Looked(TTFT, {}),
        ),
    ),
    **{
        f"short-{clients}": Load(
            f"some 55 tokens in, {SHORT_TOKENS} out, clients: {clients}",
            _closed(clients, _short(count)),
            (Looked(RATE, _limits(1.0), is_rate=True, digits=1), Looked(TTFT, {}), Looked(GAP, {})),
        )
        for clients, count in ((1, 12), (8, 32), (16, 48))
    },
    "talk": Load(
        f"8 conversations of {TURNS} turns, 300 words shared, 80 words a turn, {ANSWER_TOKENS} tokens out",
        _talk,
        (Looked(TO_THE_END, _limits(0.9)), Looked(TTFT, {}), Looked(GAP, {})),
        ctx_tokens=2 * CTX_TOKENS,
    ),
    "impatient": Load(
        "as retrieval, but every other question is given up after 0.1 to 3 s and asked again, twice",
        _closed(CLIENTS, impatient),
        (Looked(ANSWERS, _limits(1.1), is_rate=True, digits=1),),
    ),
    "fickle": Load(
        "as retrieval, but of ten questions six are given up after 0.1 to 3 s for another one",
        _closed(CLIENTS, fickle),
        (Looked(ANSWERS, _limits(1.3), is_rate=True, digits=1),),
    ),
    "behind": Load(
        "some 20 tokens, 1 s after some 1,632, with slots free",
        _behind,
        (
            Looked(TTFT, _limits(0.5, 1.0), by_peer=False),
            Looked(TTFT_WORST, _limits(0.5, 1.0), by_peer=False, is_worst=True),
        ),
    ),
    "beside": Load(
        "4 streams beside some 2,000 tokens, whose prefill takes so many times as long as alone",
        _beside,
        (Looked(GAP_P95, {}, by_peer=False, digits=1), Looked(LOSS, _limits(1.8), by_peer=False)),
        slots=SLOTS + 1,
    ),
}
"""Each by its name, in the order in which they are measured."""
