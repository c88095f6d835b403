"""Clients who take their questions from one list, each the next when it has its answer or has had enough.

So there is the same to do however fast a server is, and next to no time at the end when few have anything
left to ask.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from tools.clients.habits import Habit
from tools.clients.http1 import chat
from tools.clients.sse import Answer
from tools.clients.target import Chat, Target
from tools.sheets.summary import gaps, percentile

LIMIT_S = 120.0
"""For one round: a server that needs longer has a round that is not whole."""
STAYS = (None,)


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and how often its client asks it: `tries_s` are the seconds after which it gives each try up.

    None: it stays. A client whose last try has a time asks something else after it.
    """

    prompt: list[dict[str, str]]
    output_tokens: int
    tries_s: tuple[float | None, ...] = STAYS


@dataclass(slots=True)
class Round:
    """What one round of a load made of a server, and what it cost the clients.

    `answers` are those that their clients waited for, `left` how often one gave up.
    """

    wall_s: float = 0.0
    client_cpu_s: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    left: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def tokens_s(self) -> float | None:
        """Of output, of all clients."""
        return self._per_s(sum(answer.completion_tokens for answer in self.answers))

    @property
    def answers_min(self) -> float | None:
        """Whole answers per minute."""
        rate = self._per_s(len(self.answers))
        return None if rate is None else 60 * rate

    @property
    def ttft_p50_s(self) -> float | None:
        """Of those that were answered, from their last try."""
        seen = [answer.ttft_s for answer in self.answers if answer.ttft_s is not None]
        return percentile(seen, 0.5) if seen else None

    @property
    def longest_gap_s(self) -> float | None:
        """Between two deltas of one stream."""
        return max((gap for answer in self.answers for gap in gaps(answer.content_s)), default=None)

    def take(self, answer: Answer, output_tokens: int) -> None:
        """One that its client waited for; says in `broken` if it was not whole or has another length."""
        if not answer.is_whole:
            self.broken.append(answer.fate)
            return
        if answer.completion_tokens != output_tokens:
            self.broken.append(f"{answer.completion_tokens} tokens came where {output_tokens} were asked for")
        self.answers.append(answer)

    def _per_s(self, count: int) -> float | None:
        return count / self.wall_s if self.wall_s and self.answers else None


@contextmanager
def timed(round_: Round) -> Iterator[None]:
    """A block that a round is: how long it took, and the CPU time of this process in it.

    After `LIMIT_S` it is ended, and `broken` says so.
    """
    began_s, cpu_began_s = trio.current_time(), time.process_time()
    with trio.move_on_after(LIMIT_S) as limit:
        yield
    round_.wall_s = trio.current_time() - began_s
    round_.client_cpu_s = time.process_time() - cpu_began_s
    if limit.cancelled_caught:
        round_.broken.append(f"a round was not over after {LIMIT_S:g} s")


async def ask_all(target: Target, questions: Sequence[Question], clients: int) -> Round:
    """Ask them all, in their order, at most `clients` at a time. Cancel-safe."""
    round_ = Round()
    waiting = iter(questions)

    async def client() -> None:
        for question in waiting:  # one iterator for all: who comes next takes the next
            await _ask(target, question, round_)

    with timed(round_):
        async with trio.open_nursery() as nursery:
            for _ in range(clients):
                nursery.start_soon(client)
    return round_


async def _ask(target: Target, question: Question, round_: Round) -> None:
    for patience_s in question.tries_s:
        answer = await chat(
            target, fixed(question.prompt, question.output_tokens), Habit(leave_after_s=patience_s)
        )
        if answer.ending != "left":
            round_.take(answer, question.output_tokens)
            return
        round_.left += 1


def fixed(prompt: list[dict[str, str]], output_tokens: int) -> Chat:
    """A stream of exactly so many tokens."""
    return Chat(prompt, output_tokens, temperature=0.0, stream=True, ignore_eos=True)
