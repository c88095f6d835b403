"""Prompts for load: each differs from its first tokens on, so that no prefix cache answers for the engine."""

from itertools import cycle, islice

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


def messages(number: int, *, words: int = 0) -> list[dict[str, str]]:
    """A conversation unlike that of any other `number`: about 55 tokens with ChatML, plus `words` of filler.

    It has a system message of its own, because a template's default one would be a prefix all share.
    """
    topic = TOPICS[number % len(TOPICS)]
    filler = " ".join(islice(cycle(_WORDS[number % len(_WORDS) :] + _WORDS), words))
    asked = f"Write a very long story about {topic}. Chapter {number}."
    return [
        {"role": "system", "content": f"{number}: you never stop early."},
        {"role": "user", "content": f"{filler} {asked}" if filler else asked},
    ]


def chatml(conversation: list[dict[str, str]]) -> str:
    """The text that a ChatML template (SmolLM2's, Qwen's) makes of a conversation."""
    turns = [f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in conversation]
    return "".join(turns) + "<|im_start|>assistant\n"
