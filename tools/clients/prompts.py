"""Prompts for load: each differs from its first tokens on, so that no prefix cache answers for the engine.

Each has a system message of its own that begins with its tag. So what two of them share is the template's
`<|im_start|>system` line (3 tokens of SmolLM2) and as many digits of their tags as happen to agree. A
prompt without a system message would share all of the template's default one, some 20 tokens.
"""

import time
from collections.abc import Sequence
from itertools import cycle, islice
from random import Random

TOPICS = (
    "the winter a lighthouse keeper spent alone on a rocky island in the northern sea",
    "how a small village learned to build boats from the trees around it",
    "a young clockmaker who found a letter inside an old and broken watch",
    "the long journey of a caravan that carried salt across the great desert",
    "why the oldest library in the city was moved across the river one night",
    "a gardener who grew tomatoes on the roof of a tall apartment building",
    "the first day of a doctor in a hospital high up in the mountains",
    "two brothers who repaired an abandoned railway station with their own hands",
)
_WORDS = (
    "river",
    "mountain",
    "window",
    "garden",
    "letter",
    "winter",
    "engine",
    "harbour",
    "music",
    "paper",
    "stone",
    "bridge",
    "forest",
    "kitchen",
    "morning",
    "island",
    "market",
    "train",
    "candle",
    "shadow",
    "field",
    "copper",
    "hammer",
    "sailor",
    "orchard",
    "lantern",
    "valley",
    "thunder",
)


def tag(number: int) -> str:
    """Seven digits, different for every `number` below ten million, and early on for neighbours.

    The factor has no divisor in common with the modulus, and is its golden section: of 16 neighbours no two
    agree in their first two digits.
    """
    return f"{number * 6_180_339 % 10_000_000:07}"


def filler(words: int, *, start: int = 0) -> str:
    """`words` words of nothing in particular, of about a token each."""
    return " ".join(islice(cycle(_WORDS), start % len(_WORDS), start % len(_WORDS) + words))


def scattered(words: int, *, number: int) -> str:
    """As `filler`, but in an order of its own for every `number`: nothing in it repeats, as in text that was
    looked up, and drafts find nothing to copy."""
    return " ".join(Random(number).choices(_WORDS, k=words))


def messages(number: int, *, words: int = 0) -> list[dict[str, str]]:
    """A conversation unlike that of any other `number`: about 55 tokens in ChatML, plus `words` of filler."""
    topic = TOPICS[number % len(TOPICS)]
    asked = f"Write a very long story about {topic}. Chapter {number}."
    return [
        {"role": "system", "content": f"{tag(number)}: you never stop early."},
        {"role": "user", "content": f"{filler(words, start=number)} {asked}" if words else asked},
    ]


def policy(number: int, *, words: int) -> str:
    """A system prompt unlike that of any other `number`, and as many tokens long as all of `words` words."""
    return f"{tag(number)}: these words matter: {filler(words)}."


def tiny(number: int) -> list[dict[str, str]]:
    """A conversation of some 25 tokens that nothing asked before helps with."""
    return [{"role": "system", "content": tag(number)}, {"role": "user", "content": "Hi"}]


def chatml(conversation: list[dict[str, str]]) -> str:
    """The text that a ChatML template (SmolLM2's, Qwen's) makes of a conversation."""
    turns = [f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in conversation]
    return "".join(turns) + "<|im_start|>assistant\n"


class PromptSource:
    """Hands out prompts that were never asked before in this run, so that no round answers for another."""

    def __init__(self) -> None:
        self._next = 1_000_000 + int(time.time()) % 100_000 * 10  # always seven digits

    def take(self, count: int, *, words: int = 0) -> list[list[dict[str, str]]]:
        """`count` new conversations."""
        first = self._next
        self._next += count
        return [messages(number, words=words) for number in range(first, first + count)]

    def looked_up(self, count: int, *, words: int) -> list[list[dict[str, str]]]:
        """As `take`, with `words` scattered words before the question."""
        return [
            [
                system,
                {"role": "user", "content": f"{scattered(words, number=self._number())} {asked['content']}"},
            ]
            for system, asked in self.take(count)
        ]

    def talks(self, count: int, *, turns: int, words: int, shared_words: int) -> list[list[dict[str, str]]]:
        """What the user of `count` new conversations says in turn, `words` words each time.

        Before the first turn stands a new system prompt of `shared_words` words, which all of them share.
        """
        system = {"role": "system", "content": policy(self._number(), words=shared_words)}
        return [
            [
                system,
                *(
                    {"role": "user", "content": f"{scattered(words, number=self._number())}. Go on."}
                    for _ in range(turns)
                ),
            ]
            for _ in range(count)
        ]

    def shared(self, count: int, *, words: int) -> list[list[dict[str, str]]]:
        """`count` new conversations with one new system prompt of `words` words."""
        return self._with_policies(count, [self._number()] * count, words)

    def apart(self, count: int, *, words: int) -> list[list[dict[str, str]]]:
        """As `shared`, but each has a system prompt of its own, of the same length."""
        return self._with_policies(count, [self._number() for _ in range(count)], words)

    def tiny(self) -> list[dict[str, str]]:
        """A new conversation of next to no tokens."""
        return tiny(self._number())

    def _with_policies(self, count: int, numbers: Sequence[int], words: int) -> list[list[dict[str, str]]]:
        asked = [conversation[-1] for conversation in self.take(count)]
        return [
            [{"role": "system", "content": policy(number, words=words)}, turn]
            for number, turn in zip(numbers, asked, strict=True)
        ]

    def _number(self) -> int:
        self._next += 1
        return self._next - 1
