"""A load of clients who ask one question after the other, on the raw loop: what the machine can do at best.

A slot takes the next question as soon as it is free. Two ways to fill a batch are known and both are tried:
prompts before answers, so that answers are computed side by side, and all in one batch, as llama-server does.

    python -m tools.servers.rawload --model FILE     answers one JSON line on stdout per JSON line on stdin
"""

import argparse
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec

from tools.servers.rawloop import RawLoop, Row
from tools.servers.yardstick import BATCH_TOKENS, LoadRequest, LoadResult


@dataclass(slots=True)
class Asked:
    """A question, from the moment that it is asked."""

    prompt: list[int]
    output_tokens: int
    asked_s: float
    computed: int = 0
    """Of prompt and answer."""
    last: int = 0
    """The token that was picked last."""
    told_s: list[float] = field(default_factory=list)
    """When each token of the answer was there."""

    @property
    def is_decoding(self) -> bool:
        return bool(self.told_s)

    def rows(self, sequence: int, most: int) -> list[Row]:
        """What of it comes next, at most so many rows; the last has logits where a token follows."""
        if self.is_decoding:
            return [Row(self.last, self.computed, sequence, True)][:most]
        end = min(len(self.prompt), self.computed + most)
        return [
            Row(self.prompt[at], at, sequence, at == len(self.prompt) - 1) for at in range(self.computed, end)
        ]


def filled(slots: Sequence[Asked | None], *, is_together: bool) -> list[tuple[int, list[Row]]]:
    """The next batch, by slots: answers, then prompts; not `is_together`, answers wait for prompts. Pure."""
    decoding = [index for index, asked in enumerate(slots) if asked is not None and asked.is_decoding]
    prompts = [index for index, asked in enumerate(slots) if asked is not None and not asked.is_decoding]
    turns = decoding + prompts if is_together else prompts or decoding
    batch: list[tuple[int, list[Row]]] = []
    room = BATCH_TOKENS
    for index in turns:
        asked = slots[index]
        assert asked is not None
        rows = asked.rows(index, room)
        room -= len(rows)
        if rows:
            batch.append((index, rows))
    return batch


def play(loop: RawLoop, request: LoadRequest, slots: int, *, is_together: bool) -> LoadResult:
    """All questions, in their order; prompts are tokenized before the clock runs."""
    prompts = [loop.tokenize(text) for text in request.prompts]
    loop.forget()
    running: list[Asked | None] = [None] * slots
    began_s = time.perf_counter()
    coming = (
        Asked(prompt, tokens, began_s) for prompt, tokens in zip(prompts, request.output_tokens, strict=True)
    )
    waiting: deque[Asked] = deque()
    done: list[Asked] = []
    _ask(coming, waiting, request.clients, began_s)
    while waiting or any(running):
        for index, asked in enumerate(running):
            if asked is None and waiting:
                running[index] = waiting.popleft()
        batch = filled(running, is_together=is_together)
        loop.decode([row for _, rows in batch for row in rows])
        told = [(index, rows) for index, rows in batch if rows[-1].wants_logits]
        picked = loop.pick(len(told)) if told else []
        now_s = time.perf_counter()
        for index, rows in batch:
            asked = running[index]
            assert asked is not None
            asked.computed += len(rows)
        for (index, _), token in zip(told, picked, strict=True):
            asked = running[index]
            assert asked is not None
            asked.last = token
            asked.told_s.append(now_s)
            if len(asked.told_s) == asked.output_tokens:
                done.append(asked)
                running[index] = None
                loop.forget(index)
                _ask(coming, waiting, 1, now_s)
    return LoadResult(
        wall_s=time.perf_counter() - began_s,
        output_tokens=sum(len(asked.told_s) for asked in done),
        ttft_s=[asked.told_s[0] - asked.asked_s for asked in done],
        longest_gap_s=max(
            (after - before for asked in done for before, after in pairwise(asked.told_s)), default=0.0
        ),
    )


def _ask(coming: Iterator[Asked], waiting: deque[Asked], count: int, now_s: float) -> None:
    for _ in range(count):
        if (asked := next(coming, None)) is not None:
            asked.asked_s = now_s
            waiting.append(asked)


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
    loop = RawLoop(args.model, sequences=args.slots, threads=args.threads, ctx_tokens=args.ctx_tokens)
    decoder = msgspec.json.Decoder(LoadRequest)
    print('{"ready":true}', flush=True)
    for line in sys.stdin:
        request = decoder.decode(line)
        results = [play(loop, request, args.slots, is_together=each) for each in (False, True)]
        print(msgspec.json.encode(results).decode(), flush=True)
    loop.close()


if __name__ == "__main__":
    main()
