"""What makes a cached run equal to a cold one, to the last bit: it computes the same batches, less the first.

Held here for the kernels: whole chunks that start at multiples of their size, one sequence a step, in a KV
cache for each slot. docs/determinism.md has the rule and its figures.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from corral.engine.local.backend import Chunk
from corral.engine.local.llama.backend import LlamaBackend
from corral.engine.local.llama.options import LlamaOptions
from corral.engine.local.options import EngineOptions

pytestmark = pytest.mark.model

CHUNK_TOKENS = 128
ANSWER_TOKENS = 4
PROMPTS_TOKENS = (50, 128, 129, 300, 444)


@pytest.fixture(scope="module")
def backend(model_path: Path) -> Iterator[LlamaBackend]:
    backend = LlamaBackend(
        model_path, LlamaOptions(EngineOptions(slots=2), ctx_tokens=1024, threads=2, kv_cache="per-slot")
    )
    yield backend
    backend.close()


@pytest.fixture(autouse=True)
def _forgotten(backend: LlamaBackend) -> None:
    forget(backend)


def forget(backend: LlamaBackend) -> None:
    for sequence in range(backend.cache.shape.sequences):
        backend.cache.remove(sequence, 0)


def text(backend: LlamaBackend, tokens: int, beginning: str = "") -> list[int]:
    words = beginning + "The river ran past the old mill, and every morning the miller sang of bread. " * 60
    return backend.model.vocabulary.tokenize(words, parse_control=False)[:tokens]


def logits(backend: LlamaBackend) -> NDArray[np.float32]:
    return backend._row(0).copy()


def prefill(backend: LlamaBackend, sequence: int, prompt: list[int], start: int) -> NDArray[np.float32]:
    """Compute a prompt from `start` on in aligned chunks; the logits of its last token."""
    while start < len(prompt):
        stop = min(start - start % CHUNK_TOKENS + CHUNK_TOKENS, len(prompt))
        backend.decode([Chunk(sequence, start, prompt[start:stop], int(stop == len(prompt)))])
        start = stop
    return logits(backend)


def answer(backend: LlamaBackend, sequence: int, prompt: list[int], start: int) -> list[NDArray[np.float32]]:
    """The logits of every token of an answer that takes the likeliest one."""
    rows = [prefill(backend, sequence, prompt, start)]
    for position in range(len(prompt), len(prompt) + ANSWER_TOKENS):
        backend.decode([Chunk(sequence, position, [int(rows[-1].argmax())], 1)])
        rows.append(logits(backend))
    return rows


def reusable(common: int, prompt: list[int]) -> int:
    """How much of what two prompts have in common is reused: whole chunks, and not the last token."""
    return min(common, len(prompt) - 1) // CHUNK_TOKENS * CHUNK_TOKENS


@pytest.mark.parametrize("tokens", PROMPTS_TOKENS)
def test_the_same_prompt_again_has_equal_logits_to_the_last_bit(backend: LlamaBackend, tokens: int) -> None:
    prompt = text(backend, tokens)
    cold = answer(backend, 0, prompt, 0)
    others = text(backend, 200, "Winter. ")  # which is what the cache holds besides, in the other slot
    answer(backend, 1, others, 0)
    length = reusable(tokens, prompt)
    backend.cache.copy(0, 2, length)
    np.testing.assert_array_equal(answer(backend, 2, prompt, length), cold)


def test_a_longer_conversation_reuses_the_prompt_and_not_the_answer(backend: LlamaBackend) -> None:
    prompt = text(backend, 300)
    rows = answer(backend, 0, prompt, 0)
    said = [int(row.argmax()) for row in rows[:-1]]
    longer = [*prompt, *said, *text(backend, 40, "And then? ")]
    length = reusable(len(prompt), longer)
    assert length == 256
    backend.cache.copy(0, 1, length)
    cached = answer(backend, 1, longer, length)
    forget(backend)
    np.testing.assert_array_equal(cached, answer(backend, 0, longer, 0))


def test_reusing_all_but_one_token_is_not_exact(backend: LlamaBackend) -> None:
    prompt = text(backend, 444)
    cold = prefill(backend, 0, prompt, 0)
    backend.cache.copy(0, 1, len(prompt) - 1)
    cached = prefill(backend, 1, prompt, len(prompt) - 1)
    assert not np.array_equal(cached, cold), "then the rule is not needed any more"
    assert np.abs(cached - cold).max() < 2
