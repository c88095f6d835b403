"""With `deterministic`, a request alone gets the same answer again, to the last bit, cached or not."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.local.drive import run_tasks
from tests.engine.local.llama.conftest import forget

from corral.engine.local.llama.backend import LlamaBackend
from corral.engine.local.llama.options import LlamaOptions
from corral.engine.local.options import EngineOptions
from corral.engine.local.planner import CHUNK_TOKENS
from corral.engine.local.task import Task
from corral.engine.local.worker import Worker
from corral.events import Completion
from corral.request import Sampling

pytestmark = pytest.mark.model

CTX_TOKENS = 1024
ANSWER_TOKENS = 8
SAMPLINGS = {"greedy": Sampling(temperature=0), "seed": Sampling(temperature=0.8, top_k=40, seed=7)}


@pytest.fixture(scope="module")
def loaded(model_path: Path) -> Iterator[LlamaBackend]:
    options = LlamaOptions(EngineOptions(slots=2, deterministic=True), ctx_tokens=CTX_TOKENS, threads=2)
    backend = LlamaBackend(model_path, options)
    yield backend
    backend.close()


class Server:
    """A worker that has computed nothing yet, on an empty cache."""

    def __init__(self, backend: LlamaBackend) -> None:
        forget(backend)
        options = EngineOptions(slots=2, deterministic=True, host_cache_bytes=2**28)
        self._worker = Worker(backend, options, deliver=lambda _: None)
        self._asked = 0
        self.cached_tokens = 0
        """Of the last answer."""

    def answer(self, prompt: list[int], sampling: Sampling = SAMPLINGS["greedy"]) -> Completion:
        self._asked += 1
        [completion] = run_tasks(self._worker, [Task(self._asked, prompt, sampling, ANSWER_TOKENS, (), 5)])
        self.cached_tokens = completion.finished.usage.cached_tokens
        return completion

    def cut_short(self, prompt: list[int], *, steps: int) -> None:
        """A request that leaves after some steps of its prefill."""
        self._worker.submit_nowait(Task(0, prompt, SAMPLINGS["greedy"], 1, (), None))
        for _ in range(steps):
            self._worker.run_once()
        self._worker.cancel_nowait(0)


def text(backend: LlamaBackend, tokens: int, beginning: str = "") -> list[int]:
    words = beginning + "The river ran past the old mill, and every morning the miller sang of bread. " * 60
    return backend.model.vocabulary.tokenize(words, parse_control=False)[:tokens]


def said(completion: Completion) -> tuple[str, list[object]]:
    """What was said, and how likely each of its tokens was."""
    return completion.text, [block.logprobs for block in completion.blocks]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("tokens", [50, 128, 129, 300, 444, 900])
def test_the_same_request_again_gets_the_same_answer_to_the_last_bit(
    loaded: LlamaBackend, tokens: int, sampling: str
) -> None:
    prompt, server = text(loaded, tokens), Server(loaded)
    cold = said(server.answer(prompt, SAMPLINGS[sampling]))
    assert server.cached_tokens == 0
    reused = (tokens - 1) // CHUNK_TOKENS * CHUNK_TOKENS
    assert said(server.answer(prompt, SAMPLINGS[sampling])) == cold
    assert server.cached_tokens == reused
    for season in ("Winter. ", "Spring. ", "Summer. "):  # until what is kept has moved to the host's memory
        server.answer(text(loaded, 400, season))
    assert said(server.answer(prompt, SAMPLINGS[sampling])) == cold
    assert server.cached_tokens == reused


def test_a_conversation_that_goes_on_gets_the_answer_that_it_gets_afresh(loaded: LlamaBackend) -> None:
    prompt, server = text(loaded, 300), Server(loaded)
    first = server.answer(prompt)
    more = loaded.model.vocabulary.tokenize(f"{first.text} And then? ", parse_control=False)
    longer = [*prompt, *more, *text(loaded, 200, "Autumn. ")]
    cached = said(server.answer(longer))
    assert server.cached_tokens == 2 * CHUNK_TOKENS
    assert said(Server(loaded).answer(longer)) == cached


def test_who_was_cut_short_leaves_only_what_can_be_used_again(loaded: LlamaBackend) -> None:
    prompt = text(loaded, 900)
    cold = said(Server(loaded).answer(prompt))
    server = Server(loaded)
    server.cut_short(prompt, steps=3)
    assert said(server.answer(prompt)) == cold
    assert server.cached_tokens == 3 * CHUNK_TOKENS
