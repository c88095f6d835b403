"""Where clients from npm are, if they are."""

from pathlib import Path
from shutil import which

import pytest

FOLDER = Path(__file__).parent / "npm"
MODULES = FOLDER / "node_modules"

needs_npm = pytest.mark.skipif(
    which("node") is None or not MODULES.exists(), reason="needs node, and `make npm`"
)
