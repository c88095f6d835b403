"""What llama.cpp is tested with, as tools/install.py put it here: chat templates and vocabularies."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "build" / "llama.cpp-models"

needs_them = pytest.mark.skipif(
    not FOLDER.exists(), reason="the vendors' templates and vocabularies are not here; make test fetches them"
)


def templates() -> list[Path]:
    return sorted(FOLDER.glob("*.jinja"))


def vocabularies() -> list[Path]:
    return sorted(FOLDER.glob("ggml-vocab-*.gguf"))
