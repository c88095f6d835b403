"""Bad company: clients drawn by lot, of whom those who stay must read what is known beforehand.

On loopback each comes from an address of its own, so a server sees as many clients as there are.
"""

import random
from collections import Counter
from dataclasses import dataclass, field, replace

import trio

from tools.clients.habits import POLITE, Habit, Leave
from tools.clients.http1 import chat
from tools.clients.http2 import chat_h2
from tools.clients.prompts import messages
from tools.clients.sse import Answer
from tools.clients.target import Chat, Target
from tools.load.hostility import offend

REFERENCES = 12


@dataclass(slots=True)
class Company:
    """The clients: who they are is drawn by lot, what the stayers should have read is known."""

    target: Target
    references: list[str]
    output_tokens: int
    chance: random.Random
    outcomes: Counter[str] = field(default_factory=Counter)
    addresses: int = 0
    """How many different addresses they came from."""
    wrong: list[str] = field(default_factory=list)
    upstreams_die: bool = False
    """Then an answer that has begun may break off, if its client is told so."""
    whole: int = 0
    """Answers that were read to their end."""
    broken_off: int = 0

    def request(self, number: int, *, output_tokens: int | None = None, stream: bool = True) -> Chat:
        """The request whose answer is `references[number]`, unless the length differs."""
        count = output_tokens or self.output_tokens
        return Chat(messages(number), count, temperature=0.0, stream=stream)

    async def come(self) -> None:
        """One client from its arrival to its end."""
        chance = self.chance
        number = chance.randrange(len(self.references))
        kind = chance.choices(
            ("stay", "whole", "half-close", "slow", "leave", "stall", "hostile"), (40, 10, 5, 5, 30, 10, 20)
        )[0]
        target = self.target
        if target.host.startswith("127."):
            self.addresses += 1
            target = replace(target, source=address(self.addresses))
        if kind == "hostile":
            self.judge_hostile(await offend(target, chance))
            return
        is_h2 = chance.random() < 0.25 and kind != "half-close"
        speak = chat_h2 if is_h2 else chat
        request = self.request(number, stream=kind != "whole")
        habit = POLITE
        if kind == "half-close":
            habit = Habit(half_closes=True)
        elif kind == "slow":
            habit = Habit(read_bytes_s=8000)
        elif kind == "leave":
            ways = list(Leave) if is_h2 else [Leave.FIN, Leave.RST]
            when_s = chance.choice([0.0, 0.01, 0.1, 0.3])
            habit = Habit(leave=chance.choice(ways), leave_after_s=chance.uniform(0.0, when_s))
        elif kind == "stall":
            request = self.request(number, output_tokens=4000)
            habit = Habit(
                leave=Leave.RST, stalls=True, receive_buffer_bytes=2048, stall_limit_s=chance.uniform(0.1, 6)
            )
        answer = await speak(target, request, habit)
        self.judge(f"{kind}{' h2' if is_h2 else ''}", number, answer)

    async def keep_coming(self, clients: int) -> None:
        """So many at any time; it ends when it is cancelled."""

        async def again() -> None:
            while True:
                await self.come()

        async with trio.open_nursery() as nursery:
            for _ in range(clients):
                nursery.start_soon(again)

    def judge_hostile(self, ending: str) -> None:
        """Count how one that means harm has ended; it may be told anything but that it found a bug."""
        self.outcomes[f"hostile, {ending}"] += 1
        if ending.endswith(": 500"):
            self.wrong.append(f"hostile, {ending}")

    def judge(self, kind: str, number: int, answer: Answer) -> None:
        """Count the outcome, and hold the text of one who stayed against the reference."""
        self.outcomes[
            f"{kind}: {answer.ending}{f' {answer.status}' if answer.ending == 'refused' else ''}"
        ] += 1
        self.whole += answer.ending == "done"
        if kind.startswith(("leave", "stall")):
            if answer.violations:
                self.wrong.append(f"{kind}: {answer.violations}")
            return
        if answer.ending == "refused" and answer.status == 429:
            return
        if self.upstreams_die and self._is_told_that_it_broke_off(answer, self.references[number]):
            self.broken_off += 1
            return
        if answer.ending != "done" or answer.violations or answer.text != self.references[number]:
            self.wrong.append(
                f"{kind}: {answer.ending} {answer.status} {answer.error} {answer.violations} "
                f"{len(answer.text)} of {len(self.references[number])} characters"
            )

    @staticmethod
    def _is_told_that_it_broke_off(answer: Answer, reference: str) -> bool:
        """What had come is right, and what follows it says that no more will."""
        has_begun = bool(answer.text) and reference.startswith(answer.text)
        return answer.ending == "failed" and has_begun and not answer.violations


def address(number: int) -> str:
    """The loopback address of a number: 127.0.0.0/8 has 16 million, and comes round again after these."""
    number = 256 + number % (2**24 - 512)
    return f"127.{number >> 16}.{number >> 8 & 255}.{number & 255}"


async def references(target: Target, output_tokens: int) -> list[str]:
    """What each prompt's answer is, asked one at a time. Raises RuntimeError where one is not whole."""
    texts = []
    for number in range(REFERENCES):
        answer = await chat(target, Chat(messages(number), output_tokens, temperature=0.0, stream=True))
        if not answer.is_whole:
            raise RuntimeError(f"no reference answer: {answer.ending} {answer.error} {answer.violations}")
        texts.append(answer.text)
    return texts


async def side_by_side(target: Target, slots: int) -> int:
    """How many of `slots` streams started together have text while none has ended."""
    answers: list[Answer] = []
    began: list[int] = []

    async def one(number: int) -> None:
        request = Chat(messages(number), 2000, temperature=0.0, stream=True)
        answers.append(await chat(target, request, Habit(leave_after_s=3.0)))

    async with trio.open_nursery() as nursery:
        for number in range(slots):
            nursery.start_soon(one, number)
    first_end_s = min(answer.ended_s or 0.0 for answer in answers)
    began = [1 for answer in answers if answer.content_s and answer.content_s[0] < first_end_s]
    return sum(began)
