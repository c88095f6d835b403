from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.engine.llama.backend import LlamaBackend, LlamaOptions
from corral.engine.llama.modelfile import resolve


@pytest.fixture(scope="session")
def model_path() -> Path:
    return resolve(None).path


@pytest.fixture(scope="session")
def loaded(model_path: Path) -> Iterator[LlamaBackend]:
    backend = LlamaBackend(model_path, LlamaOptions(slots=8, ctx_tokens=2048, threads=2))
    yield backend
    backend.close()


@pytest.fixture
def llama(loaded: LlamaBackend) -> Iterator[LlamaBackend]:
    """The default model with an empty cache, and empty again afterwards."""
    yield loaded
    left = [slot for slot in range(8) if loaded.length(slot)]
    for slot in left:
        loaded.remove(slot, 0)
    assert not left, f"cells left in slots {left}"
