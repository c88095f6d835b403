"""A model that cannot compute one token is found out before anybody asks it."""

import struct
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import pytest
from tests.fuzz.gguf import small_model

from corral.engine.local.llama.backend import LlamaBackend
from corral.engine.local.llama.options import LlamaOptions
from corral.engine.local.options import EngineOptions
from corral.errors import StartupError

pytestmark = pytest.mark.model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.gguf"


@pytest.fixture
def backend(path: Path) -> Iterator[LlamaBackend]:
    """On a model whose last norm gives no numbers."""
    gguf = small_model()
    [norm] = [tensor for tensor in gguf.tensors if tensor.name == b"output_norm.weight"]
    norm.data = struct.pack("<f", float("nan")) * (len(norm.data) // 4)
    path.write_bytes(gguf.written())
    backend = LlamaBackend(path, LlamaOptions(EngineOptions(slots=1), threads=1))
    yield backend
    backend.close()


def test_a_model_that_computes_no_numbers_is_refused(backend: LlamaBackend) -> None:
    with pytest.raises(StartupError, match="computes no numbers"):
        backend.warm_up()


def test_a_model_that_fails_in_its_first_step_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(small_model().written())
    backend = LlamaBackend(path, LlamaOptions(EngineOptions(slots=1), threads=1))
    with monkeypatch.context() as broken:
        broken.setattr(llama_cpp, "llama_decode", lambda *_: -3)
        with pytest.raises(StartupError, match="cannot compute a single token: "):
            backend.warm_up()
    backend.close()


def test_a_model_that_is_well_has_an_empty_cache_afterwards(path: Path) -> None:
    path.write_bytes(small_model().written())
    backend = LlamaBackend(path, LlamaOptions(EngineOptions(slots=1), threads=1))
    backend.warm_up()
    assert backend.cache.length(0) == 0
    backend.close()


def test_what_steps_take_is_known_then(path: Path) -> None:
    path.write_bytes(small_model().written())
    backend = LlamaBackend(path, LlamaOptions(EngineOptions(slots=4), threads=1))
    times = backend.warm_up()
    backend.close()
    assert {time.tokens for time in times if not time.is_prefill} >= {1, 2, 4}
    assert max(time.tokens for time in times if time.is_prefill) >= 64
