"""A load of clients who ask one question after the other, on the raw loop: what the machine can do at best.

A slot takes the next question as soon as it is free. Two ways to fill a batch are known and both are tried:
prompts before answers, so that answers are computed side by side, and all in one batch, as llama-server does.
Who gives up is gone before the next batch, and what was computed of its prompt is there when it asks again,
for as many as there are slots.

    python -m tools.servers.rawload --model FILE     answers one JSON line on stdout per JSON line on stdin
"""

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec

from tools.servers.rawloop import RawLoop, Row
from tools.servers.yardstick import BATCH_TOKENS, LoadRequest, LoadResult


@dataclass(slots=True, eq=False)
class Asked:
    """A question, from the moment that it is asked.

    Each of `tries_s` is the seconds after which that try is given up; None: it stays.
    """

    prompt: list[int]
    output_tokens: int
    tries_s: deque[float | None]
    asked_s: float = 0.0
    sequence: int | None = None
    """Where in the cache it lies, if it does: in one of those that run, or put aside."""
    computed: int = 0
    """Of prompt and answer."""
    last: int = 0
    """The token that was picked last."""
    told_s: list[float] = field(default_factory=list)
    """When each token of the answer was there."""

    @property
    def is_decoding(self) -> bool:
        return bool(self.told_s)

    def has_had_enough(self, now_s: float) -> bool:
        """Whether this try is to be given up by now."""
        patience_s = self.tries_s[0]
        return patience_s is not None and now_s - self.asked_s >= patience_s

    def rows(self, most: int) -> list[Row]:
        """What of it comes next, at most so many rows; the last has logits where a token follows."""
        assert self.sequence is not None
        if self.is_decoding:
            return [Row(self.last, self.computed, self.sequence, True)][:most]
        end = min(len(self.prompt), self.computed + most)
        last = len(self.prompt) - 1
        return [Row(self.prompt[at], at, self.sequence, at == last) for at in range(self.computed, end)]


def filled(running: Sequence[Asked], *, is_together: bool) -> list[tuple[Asked, list[Row]]]:
    """The next batch: answers, then prompts; not `is_together`, answers wait for prompts. Pure."""
    decoding = [asked for asked in running if asked.is_decoding]
    prompts = [asked for asked in running if not asked.is_decoding]
    turns = decoding + prompts if is_together else prompts or decoding
    batch: list[tuple[Asked, list[Row]]] = []
    room = BATCH_TOKENS
    for asked in turns:
        if rows := asked.rows(room):
            room -= len(rows)
            batch.append((asked, rows))
    # In a cache that is split llama.cpp takes neighbours together only if they come in their order.
    return sorted(batch, key=lambda each: each[1][0].sequence)


class Play:
    """One load on a loop that has twice as many sequences as there are `slots`: the first of them run.

    Prompts are tokenized before the clock runs. `clock` is for tests.
    """

    def __init__(
        self,
        loop: RawLoop,
        request: LoadRequest,
        slots: int,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._loop = loop
        self._slots = slots
        self._clock = clock
        asked = zip(request.prompts, request.output_tokens, request.tries_s, strict=True)
        self._coming = deque(Asked(loop.tokenize(text), count, deque(tries)) for text, count, tries in asked)
        self._clients = request.clients
        self._waiting: deque[Asked] = deque()
        self._running: list[Asked] = []
        self._done: list[Asked] = []
        self._free = set(range(slots))
        self._aside = set(range(slots, 2 * slots))
        """Free ones for what was computed for somebody who asks again."""

    def run(self, *, is_together: bool) -> LoadResult:
        """All questions, in their order. To be called once."""
        self._loop.forget()
        began_s = self._clock()
        for _ in range(self._clients):
            self._ask_next(began_s)
        while self._waiting or self._running:
            self._give_up(self._clock())
            self._begin()
            if self._running:
                self._step(is_together)
        gaps = (after - before for asked in self._done for before, after in pairwise(asked.told_s))
        return LoadResult(
            wall_s=self._clock() - began_s,
            output_tokens=sum(len(asked.told_s) for asked in self._done),
            ttft_s=[asked.told_s[0] - asked.asked_s for asked in self._done],
            longest_gap_s=max(gaps, default=0.0),
        )

    def _step(self, is_together: bool) -> None:
        batch = filled(self._running, is_together=is_together)
        self._loop.decode([row for _, rows in batch for row in rows])
        told = [asked for asked, rows in batch if rows[-1].wants_logits]
        picked = self._loop.pick(len(told)) if told else []
        now_s = self._clock()
        for asked, rows in batch:
            asked.computed += len(rows)
        for asked, token in zip(told, picked, strict=True):
            asked.last = token
            asked.told_s.append(now_s)
            if len(asked.told_s) == asked.output_tokens:
                self._done.append(asked)
                self._running.remove(asked)
                self._forget(asked)
                self._ask_next(now_s)

    def _ask_next(self, now_s: float) -> None:
        """A client asks what is next to be asked, if anything is."""
        if self._coming:
            self._ask(self._coming.popleft(), now_s)

    def _ask(self, asked: Asked, now_s: float) -> None:
        asked.asked_s = now_s
        self._waiting.append(asked)

    def _give_up(self, now_s: float) -> None:
        """Take out who has had enough: its client asks again, or something else."""
        for place in (self._waiting, self._running):
            for asked in [asked for asked in place if asked.has_had_enough(now_s)]:
                place.remove(asked)
                asked.tries_s.popleft()
                asked.told_s.clear()
                if not asked.tries_s:
                    self._forget(asked)
                    self._ask_next(now_s)
                    continue
                if place is self._running:
                    self._put_aside(asked)
                self._ask(asked, now_s)

    def _begin(self) -> None:
        while self._waiting and self._free:
            asked = self._waiting.popleft()
            slot = min(self._free)
            self._free.remove(slot)
            if asked.sequence is not None:
                self._move(asked, slot)
            asked.sequence = slot
            self._running.append(asked)

    def _put_aside(self, asked: Asked) -> None:
        """Keep what was computed of its prompt while there is room; its last token is for the logits."""
        assert asked.sequence is not None
        if not asked.computed or not self._aside:
            self._forget(asked)
            return
        asked.computed = min(asked.computed, len(asked.prompt) - 1)
        self._loop.cut(asked.sequence, asked.computed)
        self._move(asked, self._aside.pop())

    def _move(self, asked: Asked, target: int) -> None:
        assert asked.sequence is not None
        self._loop.copy(asked.sequence, target)
        self._release(asked.sequence)
        asked.sequence = target

    def _forget(self, asked: Asked) -> None:
        if asked.sequence is not None:
            self._release(asked.sequence)
        asked.sequence, asked.computed = None, 0

    def _release(self, sequence: int) -> None:
        self._loop.forget(sequence)
        (self._free if sequence < self._slots else self._aside).add(sequence)


def main() -> None:
    """Serve loads over stdin and stdout until stdin ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--ctx-tokens", type=int, required=True)
    args = parser.parse_args()
    loop = RawLoop(args.model, sequences=2 * args.slots, threads=args.threads, ctx_tokens=2 * args.ctx_tokens)
    decoder = msgspec.json.Decoder(LoadRequest)
    print('{"ready":true}', flush=True)
    for line in sys.stdin:
        request = decoder.decode(line)
        results = [Play(loop, request, args.slots).run(is_together=each) for each in (False, True)]
        print(msgspec.json.encode(results).decode(), flush=True)
    loop.close()


if __name__ == "__main__":
    main()
