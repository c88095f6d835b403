"""Time to cancel, measured from outside: how long a server stays busy with clients that have gone.

One round: victims occupy the server; they leave together, by FIN or RST; at once a one-token request follows.
The time until it is answered, minus the median of the same request on the idle server, is the residual busy
time. It works on any server, and counts all that a next user would wait for, not only what a server reports.
Set `victims` to the server's number of slots or more, else the follow-up finds a free one and proves nothing.

Where the victims are when they leave:
  queue    behind as many blockers, which leave 50 ms after them; what remains is work for the dead
  prefill  halfway through the measured time to the first token of such a prompt
  decode   one and a half times that time per victim after they came
"""

from dataclasses import dataclass
from statistics import median

import trio

from benchrun import PromptSource
from loadclient import Chat, Habit, Leave, Target, chat
from sse import Answer

PHASES = ("queue", "prefill", "decode")
_BLOCKER_TOKENS = 2000


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of leaving client."""

    phase: str
    streams: bool
    leave: Leave

    def __str__(self) -> str:
        return f"{self.phase}, {'streaming' if self.streams else 'not streaming'}, {self.leave.value.upper()}"


class ResidualProbe:
    """Measures cells against one server. Call `calibrate` first."""

    def __init__(self, target: Target, *, victims: int, prompt_tokens: int, output_tokens: int) -> None:
        self._target = target
        self._victims = victims
        self._words = prompt_tokens
        self._output_tokens = output_tokens
        self._prompts = PromptSource()
        self.idle_s = 0.0
        """Median seconds of a one-token answer on the idle server."""
        self.first_token_s = 0.0
        """Median seconds to the first token of one victim alone."""

    async def calibrate(self, repeats: int = 5) -> None:
        """Measure the two baselines. Raises RuntimeError when the server does not answer."""
        idle = [_taken_s(await self._follow_up()) for _ in range(repeats)]
        first = []
        for prompt in self._prompts.take(min(repeats, 3), words=self._words):
            request = Chat(prompt, 1, temperature=0.0, stream=True)
            first.append(_taken_s(await chat(self._target, request)))
        self.idle_s = median(idle)
        self.first_token_s = median(first)

    async def measure(self, cell: Cell) -> float:
        """One round; residual busy seconds (may be slightly below 0: the baseline is a median)."""
        blockers = [trio.CancelScope() for _ in range(self._victims if cell.phase == "queue" else 0)]
        victims = [trio.CancelScope() for _ in range(self._victims)]
        habit = Habit(leave=cell.leave)
        async with trio.open_nursery() as nursery:
            for scope in blockers:
                prompt = self._prompts.take(1)[0]
                request = Chat(prompt, _BLOCKER_TOKENS, temperature=0.0, stream=True)
                nursery.start_soon(self._occupy, request, habit, scope)
            if blockers:
                await trio.sleep(0.1 + 0.1 * len(blockers))
            for scope in victims:
                prompt = self._prompts.take(1, words=self._words)[0]
                request = Chat(prompt, self._output_tokens, temperature=0.0, stream=cell.streams)
                nursery.start_soon(self._occupy, request, habit, scope)
            await trio.sleep(self._moment_s(cell))
            for scope in victims:
                scope.cancel()
            if blockers:
                await trio.sleep(0.05)
                for scope in blockers:
                    scope.cancel()
        return _taken_s(await self._follow_up()) - self.idle_s

    def _moment_s(self, cell: Cell) -> float:
        """Seconds from the victims' start until they leave."""
        if cell.phase == "queue":
            return 0.05
        alone = max(self.first_token_s, 0.01)
        return alone / 2 if cell.phase == "prefill" else alone * self._victims + alone / 2

    async def _occupy(self, request: Chat, habit: Habit, leaving: trio.CancelScope) -> None:
        await chat(self._target, request, habit, leaving=leaving)

    async def _follow_up(self) -> Answer:
        return await chat(self._target, Chat([{"role": "user", "content": "Hi"}], 1, temperature=0.0))


def _taken_s(answer: Answer) -> float:
    if answer.ending != "done" or answer.ended_s is None:
        raise RuntimeError(f"the server did not answer: {answer.ending} {answer.status} {answer.error}")
    return answer.ended_s - answer.sent_s
