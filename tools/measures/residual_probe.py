"""Time to cancel, measured from outside: how long a server stays busy with clients that have gone.

One round: victims occupy the server; they leave together, by FIN or RST; at once a one-token request follows.
The time until it is answered, minus the median of such a request on the idle server, is the residual busy
time. It works on any server, and counts all that a next user would wait for, not only what a server reports.
Set `victims` to the server's number of slots or more, else the follow-up finds a free one and proves nothing.
Every follow-up is a new prompt of some 25 tokens, on the idle server too, so no cache helps only one of them.

Where the victims are when they leave:
  queue    behind as many blockers, decoding, that leave 50 ms after them; what remains is for the dead
  prefill  halfway through the measured time to the first token of such a prompt
  decode   streaming: at their 4th delta; else one and a half times that time per victim after they came

A round in which a victim was seen to be elsewhere (it had text too early, or its answer was over) is void.
"""

from collections import deque
from dataclasses import dataclass
from statistics import median

import trio

from tools.clients.asking import DeltaGate
from tools.clients.habits import Departure, Habit
from tools.clients.http1 import chat
from tools.clients.prompts import PromptSource
from tools.clients.sse import Answer
from tools.clients.target import Chat, Target

_BLOCKER_TOKENS = 2000
_DECODE_DELTAS = 4
_QUEUED_S = 0.15  # in which a victim's prompt has been read and tokenized, and waits
_APART_S = 0.05


@dataclass(slots=True)
class _Client:
    """One that will leave when `scope` is cancelled; its answer is there when it has."""

    request: Chat
    scope: trio.CancelScope
    answer: Answer | None = None

    @property
    def left_early(self) -> bool:
        """It went while its answer went on."""
        return self.answer is not None and self.answer.ending == "left"


class ResidualProbe:
    """Measures departures from one server. Call `calibrate` first."""

    def __init__(self, target: Target, *, victims: int, prompt_tokens: int, output_tokens: int) -> None:
        self._target = target
        self._victims = victims
        self._words = prompt_tokens
        self._output_tokens = output_tokens
        self._prompts = PromptSource()
        self._idle: deque[float] = deque(maxlen=9)
        self.idle_s = 0.0
        """Median seconds of a one-token answer on the idle server."""
        self.first_token_s = 0.0
        """Median seconds to the first token of one victim alone."""

    async def calibrate(self, repeats: int = 5) -> None:
        """Measure the two baselines. Raises RuntimeError when the server does not answer."""
        await self.calibrate_idle(repeats)
        first = []
        for prompt in self._prompts.take(min(repeats, 3), words=self._words):
            request = Chat(prompt, 1, temperature=0.0, stream=True)
            first.append(_taken_s(await chat(self._target, request)))
        self.first_token_s = median(first)

    async def calibrate_idle(self, repeats: int = 5) -> None:
        """Ask the idle server again, since a machine changes its speed. The last nine answers count."""
        for _ in range(repeats):
            self._idle.append(_taken_s(await self._follow_up()))
        self.idle_s = median(self._idle)

    async def measure(self, departure: Departure) -> float | None:
        """One round; residual busy seconds (may be slightly below 0: the baseline is a median).

        None when the victims were not where they should be. Raises RuntimeError when the server does not
        answer the follow-up.
        """
        blockers = [
            self._client(_BLOCKER_TOKENS) for _ in range(self._victims if departure.phase == "queue" else 0)
        ]
        victims = [
            self._client(self._output_tokens, words=self._words, streams=departure.streams)
            for _ in range(self._victims)
        ]
        async with trio.open_nursery() as nursery:
            if blockers:
                holding = DeltaGate(len(blockers), 1)
                for blocker in blockers:
                    nursery.start_soon(self._occupy, blocker, Habit(leave=departure.leave), holding)
                await holding.opened.wait()
            decoding = DeltaGate(len(victims), _DECODE_DELTAS)
            for victim in victims:
                nursery.start_soon(self._occupy, victim, Habit(leave=departure.leave), decoding)
            if departure.phase == "decode" and departure.streams:
                await decoding.opened.wait()
            else:
                await trio.sleep(self._moment_s(departure))
            for victim in victims:
                victim.scope.cancel()
            if blockers:
                await trio.sleep(_APART_S)
                for blocker in blockers:
                    blocker.scope.cancel()
        residual_s = _taken_s(await self._follow_up()) - self.idle_s
        return residual_s if _is_valid(departure, victims, blockers) else None

    def _moment_s(self, departure: Departure) -> float:
        """Seconds from the victims' start until they leave."""
        if departure.phase == "queue":
            return _QUEUED_S
        alone = max(self.first_token_s, 0.01)
        return alone / 2 if departure.phase == "prefill" else alone * self._victims + alone / 2

    def _client(self, output_tokens: int, *, words: int = 0, streams: bool = True) -> _Client:
        prompt = self._prompts.take(1, words=words)[0]
        return _Client(Chat(prompt, output_tokens, temperature=0.0, stream=streams), trio.CancelScope())

    async def _occupy(self, client: _Client, habit: Habit, gate: DeltaGate) -> None:
        client.answer = await chat(self._target, client.request, habit, leaving=client.scope, watch=gate)
        gate.over()

    async def _follow_up(self) -> Answer:
        return await chat(self._target, Chat(self._prompts.tiny(), 1, temperature=0.0))


def _is_valid(departure: Departure, victims: list[_Client], blockers: list[_Client]) -> bool:
    """Whether all left early, and those that stream had text just where they should."""
    if not all(client.left_early for client in (*victims, *blockers)):
        return False
    texts = [bool(victim.answer and victim.answer.content_s) for victim in victims]
    return all(texts) if departure.phase == "decode" and departure.streams else not any(texts)


def _taken_s(answer: Answer) -> float:
    if answer.ending != "done" or answer.ended_s is None:
        raise RuntimeError(f"the server did not answer: {answer.ending} {answer.status} {answer.error}")
    return answer.ended_s - answer.sent_s
