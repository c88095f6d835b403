"""A model that is loaded long after the start, of a file that is not the one any more that was tried then."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fuzz.gguf import UINT32, Gguf, number, small_model

from corral.errors import StartupError
from corral.settings import LocalModel, Settings
from corral.wiring.shelf import Shelved, find_models

pytestmark = pytest.mark.model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(small_model().written())
    return path


def found(path: Path) -> Shelved:
    [model] = find_models(Settings(models=(LocalModel(model=str(path), load="first-use", slots=1),)))
    return model


def without_layers() -> Gguf:
    """What llama.cpp asserts about, which ends the process."""
    gguf = small_model()
    gguf.metadata = [entry for entry in gguf.metadata if entry.key != b"llama.block_count"]
    gguf.metadata.append(number("llama.block_count", UINT32, 0))
    return gguf


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.write_bytes(without_layers().written()), "dies with SIGABRT"),
        (lambda path: path.unlink(), "there is no model file"),
    ],
    ids=["damaged", "gone"],
)
def test_it_is_tried_again_where_it_can_do_no_harm(
    path: Path, change: Callable[[Path], None], reason: str
) -> None:
    model = found(path)
    change(path)
    with pytest.raises(StartupError, match=reason):
        model.opens(lambda: True)


def test_one_that_is_as_it_should_be_is_loaded(path: Path) -> None:
    model = found(path)
    path.write_bytes(small_model().written())
    model.opens(lambda: True).close()


def test_one_that_takes_more_of_the_memory_than_it_has_claimed_is_not_loaded(path: Path) -> None:
    model = found(path)
    gguf = small_model()
    gguf.scalar("llama.context_length").raw = struct.pack("<I", 4096)
    path.write_bytes(gguf.written())
    with pytest.raises(StartupError, match="takes a restart"):
        model.opens(lambda: True)
