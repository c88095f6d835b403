from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.engine.local.llama.backend import LlamaBackend
from corral.engine.local.llama.modelfile import resolve
from corral.engine.local.llama.options import LlamaOptions
from corral.engine.local.options import EngineOptions


@pytest.fixture(scope="session")
def model_path() -> Path:
    return resolve(None).path


@pytest.fixture(scope="session", params=["shared", "per-slot"])
def loaded(request: pytest.FixtureRequest, model_path: Path) -> Iterator[LlamaBackend]:
    options = LlamaOptions(EngineOptions(slots=8), ctx_tokens=2048, threads=2, kv_cache=request.param)
    backend = LlamaBackend(model_path, options)
    yield backend
    backend.close()


@pytest.fixture
def llama(loaded: LlamaBackend) -> LlamaBackend:
    """The default model with an empty cache."""
    forget(loaded)
    return loaded


def forget(backend: LlamaBackend) -> None:
    """Empty the cache: a new worker keeps its books from nothing."""
    for sequence in range(backend.cache.shape.sequences):
        backend.cache.remove(sequence, 0)
