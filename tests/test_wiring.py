"""How settings reach those who need them."""

from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from corral import wiring
from corral.engine.local.llama.modelfile import ModelFile
from corral.engine.local.llama.options import LlamaOptions
from corral.settings import Settings


def test_every_option_of_llama_cpp_is_the_setting_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[LlamaOptions] = []
    monkeypatch.setattr(
        "corral.engine.local.llama.backend.LlamaBackend",
        lambda path, options, prompts: opened.append(options),
    )
    monkeypatch.setattr("corral.engine.local.prompts.pool.PromptProcesses", lambda command: ExitStack())
    monkeypatch.setattr(
        "corral.engine.local.llama.modelfile.resolve", lambda model: ModelFile(Path("m"), "m", "here", False)
    )
    values: dict[str, Any] = {
        "slots": 3,
        "ctx_tokens": 4096,
        "threads": 5,
        "gpu_layers": 6,
        "flash_attn": "on",
        "kv_type_k": "q8_0",
        "kv_type_v": "q4_0",
        "kv_cache": "per-slot",
        "deterministic": True,
    }
    assert set(values) == {own.name for own in fields(LlamaOptions)}
    wiring.open_llama(Settings(**values), None)
    assert opened == [LlamaOptions(**values)]
