import os
from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def golden() -> Callable[[str, bytes], None]:
    """Compares bytes with a reviewed transcript; CORRAL_UPDATE_GOLDEN=1 writes it instead."""

    def check(name: str, actual: bytes) -> None:
        path = GOLDEN / name
        if os.environ.get("CORRAL_UPDATE_GOLDEN"):
            path.write_bytes(actual)
        assert actual.decode() == path.read_bytes().decode()

    return check
