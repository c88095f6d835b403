"""Some of the fuzzer's texts, through tokenizers of each kind of pattern."""

from pathlib import Path

import pytest
import trio
from tests.fuzz.texts import files, through

pytestmark = pytest.mark.model

FEW = ("default", "deepseek-v3", "gpt-4o", "tekken", "bloom")


@pytest.mark.parametrize("kind", FEW)
async def test_no_text_ends_the_process_that_tokenizes_it(kind: str, tmp_path: Path) -> None:
    path, is_exact = next((path, exact) for name, path, exact in files(tmp_path) if name == kind)
    with trio.fail_after(60):
        found = await through(path, kind, range(1, 13), is_exact=is_exact)
    assert not found.wrong
    assert found.outcomes["tokenized"] == 12
