"""Text through every kind of tokenizer there is, in the server's own processes: none may die or stall.

    python -m tests.fuzz.texts --count 40 [--seed 1]

`--count` texts go through each of llama.cpp's pre-tokenizers (in a tiny model whose tokens are the 256
bytes and a few merges) and through each vocabulary that llama.cpp is tested with: runs of one character, of
classes that its patterns tell apart, words, any code points, up to MAX_CHARS. Each is tokenized or refused
in words within the server's own deadline; what the tiny model makes of it is the text again, byte for byte.
The figures are in docs/security.md.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio
from tests import llama_models
from tests.fuzz.gguf import small_model
from tests.fuzz.gguf import text as written

from corral.engine.local.llama import prompt_process, trial
from corral.engine.local.llama.model import LlamaModel
from corral.engine.local.prompts.pool import DEADLINE_S, PromptProcesses
from corral.errors import CorralError, InvalidRequest, StartupError

MAX_CHARS = 250_000
KINDS = """
    a.x-4.0 afmoe bailingmoe bailingmoe2 bloom chameleon chatglm-bpe codeshell cohere2moe command-r dbrx
    deepseek-coder deepseek-llm deepseek-r1-qwen deepseek-v3 default exaone exaone-moe exaone4 f2llmv2
    falcon falcon-h1 falcon3 gemma4 gigachat glm4 glm5 gpt-2 gpt-4o gpt3-finnish granite-docling
    granite-embed-multi-311m granite-embed-multi-97m grok-2 hunyuan hunyuan-dense hy_v4 jais-2 jais
    jina-de jina-es jina-v1-en jina-v2-code jina-v2-de jina-v2-es jina-v5-nano joyai-llm kanana2 kimi-k2
    kormo laguna lfm2 llada-moe llama-bpe llama-v3 llama3 llama4 megrez mellum mellum2 midm-2.0
    minerva-7b minicpm5 minimax-m2 modern-bert mpt olmo phi-2 pixtral poro-chat qwen2 qwen35 refact
    roberta-bpe sarvam-moe seed-coder smaug-bpe smollm solar-open spark2_5 stablelm2 starcoder superbpe
    talkie tekken tiny_aya trillion ufakzeka viking whitespace youtu
""".split()  # noqa: SIM905 - a list of ninety names, a name a line, hides all else
"""llama.cpp's names of pre-tokenizers: `tokenizer.ggml.pre`."""
WITHOUT_BYTES = {"gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace"}
"""Pre-tokenizers whose vocabularies do not spell bytes as GPT-2's does, as the tiny model's does."""

CLASSES = (
    "a", "A", "aA", "é", "中", "あ", "한", "א", "ไ", "1", "\u0661", " ", "\t", "\n", "\r\n", " \n", "\u00a0",
    "\u3000", ".", "!?", "-", "_", "/", "'", "'s", "'ll", "a.", "a1", "1.", "a ", " a", "\u0301",
    "e\u0301", "\u200d", "\U0001f600", "\U0001f468\u200d", "\u202e", "\0", "\x7f", "\ufffd", "\U0010ffff",
    "<", "<|", "{", "\\", '"', "\ufeff", "ß", "ǅ",
)  # fmt: skip
"""What patterns tell apart: letters by case and script, digits, blanks, marks, contractions."""

CODE_POINTS = [*range(0xD800), *range(0xE000, 0x110000, 64)]


def text(chance: random.Random) -> str:
    """One text; how long is drawn first, so that there are as many short ones as long ones."""
    size = int(2 ** chance.uniform(0, 18))
    match chance.randrange(5):
        case 0:
            made = chance.choice(CLASSES) * size
        case 1:
            made = "".join(
                chance.choice(CLASSES) * chance.choice([1, 2, 3, 50, 5000]) for _ in range(size // 20 + 1)
            )
        case 2:
            pair = chance.choice(CLASSES) + chance.choice(CLASSES)
            made = pair * size
        case 3:
            made = "".join(map(chr, chance.choices(CODE_POINTS, k=size // 8)))
        case _:
            made = " ".join(
                "".join(chance.choices("abcdefghij,.'", k=chance.randrange(1, 12))) for _ in range(size // 6)
            )
    return made[:MAX_CHARS]


@dataclass
class Found:
    """What came of all texts of one tokenizer, or of all."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    slowest: str = ""
    wrong: list[str] = field(default_factory=list)

    def add(self, other: "Found") -> None:
        self.outcomes += other.outcomes
        self.wrong += other.wrong
        if other.slowest_s > self.slowest_s:
            self.slowest_s, self.slowest = other.slowest_s, other.slowest


async def through(path: Path, name: str, seeds: range, *, is_exact: bool) -> Found:
    """Put the texts of some seeds through the tokenizer of a file."""
    found = Found()
    model = LlamaModel(path, vocab_only=True)
    pieces = model.vocabulary.pieces
    processes = PromptProcesses(prompt_process.command(path, DEADLINE_S), processes=1)
    try:
        await processes.ready()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(processes.run)
            tokens_of = partial(processes.tokens, client="", adds_special=False, parses_control=False)
            for seed in seeds:
                asked = text(random.Random(seed))
                began_s = trio.current_time()
                try:
                    tokens = await tokens_of(asked)
                except CorralError as error:
                    is_right = isinstance(error, InvalidRequest) and "ends the process" not in error.message
                    found.outcomes["refused" if is_right else "wrong"] += 1
                    if not is_right:
                        found.wrong.append(f"{name}, seed {seed}: {error.message}")
                    continue
                took_s = trio.current_time() - began_s
                if took_s > found.slowest_s:
                    found.slowest_s, found.slowest = took_s, f"{name}, {len(asked)} characters, seed {seed}"
                is_right = not is_exact or b"".join(pieces[token] for token in tokens) == asked.encode()
                found.outcomes["tokenized" if is_right else "wrong"] += 1
                if not is_right:
                    found.wrong.append(f"{name}, seed {seed}: not the text")
            nursery.cancel_scope.cancel()
    finally:
        processes.close()
        model.close()
    return found


def files(folder: Path) -> Iterator[tuple[str, Path, bool]]:
    """Every tokenizer: its name, its file, and whether its tokens are the text byte for byte."""
    for kind in KINDS:
        gguf = small_model()
        gguf.scalar("tokenizer.ggml.pre").raw = written(kind.encode())
        path = folder / "tiny.gguf"
        path.write_bytes(gguf.written())
        yield kind, path, kind not in WITHOUT_BYTES
    for path in llama_models.vocabularies():
        yield path.stem, path, False


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1, help="of the first text; the others follow it")
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    every, began_s = Found(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name, path, is_exact in files(Path(folder)):
            try:
                if is_exact:
                    trial.run(path)  # as the server does: it would not open what dies here
                found = trio.run(partial(through, path, name, seeds, is_exact=is_exact))
            except StartupError as error:
                print(f"{name}: {error}", flush=True)
                continue
            every.add(found)
            for line in found.wrong:
                print(line, flush=True)
    print(
        f"{every.outcomes.total()} texts in {time.monotonic() - began_s:.0f} s: {dict(every.outcomes)}, "
        f"slowest {every.slowest_s:.2f} s ({every.slowest})"
    )
    return int(bool(every.wrong))


if __name__ == "__main__":
    sys.exit(main())
