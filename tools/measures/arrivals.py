"""When requests come and how large they are: drawn by lot, or as they once came to somebody's service.

Recorded ones are the first 400 of the conversations in Azure's LLM inference trace of 2023 (`arrivals.csv`:
seconds, tokens of the prompt and of the answer), from Patel et al., "Splitwise: Efficient generative LLM
inference using phase splitting", ISCA 2024, https://github.com/Azure/AzurePublicDataset, CC BY 4.0. They came
to a service of many GPUs: here their sizes and their rate are scaled to what a few slots can bear.
"""

import csv
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec

RECORDED = Path(__file__).with_name("arrivals.csv")
MOST_WORDS = 400
MOST_TOKENS = 400
PROMPT_TOKENS_A_WORD = 10
"""Of a recorded prompt: so many of its tokens are a word here."""
ANSWER_TOKENS_A_TOKEN = 3
ARRIVALS_STEP_MS = 20.0
"""Of the engine that all of them are made for, with four slots."""
SLOWER = 1.8
"""Times that recorded requests are further apart here."""


class Arrival(msgspec.Struct, frozen=True):
    """A request: when it comes, the words of its prompt, the tokens of its answer."""

    at_s: float
    words: int
    answer_tokens: int


def drawn(count: int, seed: int) -> list[Arrival]:
    """`count` of them. In busy spells they come half as fast again as they can be served, in calm ones half
    as fast."""
    draw = random.Random(seed)
    at_s, coming = 0.0, []
    for index in range(count):
        words, tokens = int(draw.lognormvariate(4, 0.8)), int(draw.lognormvariate(4, 0.6))
        coming.append(_arrival(at_s, words, tokens))
        is_busy = index // 40 % 2 == 0
        at_s += draw.expovariate(4.2 if is_busy else 1.4)
    return coming


def recorded(count: int, part: int) -> list[Arrival]:
    """`count` of those that were recorded, from another place of the recording in each `part`."""
    every = list(_recording())
    start = part * count % max(1, len(every) - count)
    return every[start : start + count]


def _recording() -> Iterator[Arrival]:
    with RECORDED.open(newline="") as file:
        for row in csv.DictReader(file):
            words = int(row["prompt_tokens"]) // PROMPT_TOKENS_A_WORD
            tokens = int(row["answer_tokens"]) // ANSWER_TOKENS_A_TOKEN
            yield _arrival(SLOWER * float(row["at_s"]), words, tokens)


def _arrival(at_s: float, words: int, tokens: int) -> Arrival:
    return Arrival(at_s, min(words, MOST_WORDS), 1 + min(tokens, MOST_TOKENS))
