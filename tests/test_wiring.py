"""How settings reach those who need them."""

from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from corral.dialects.routes import DialectOptions
from corral.engine.contract import Capacity
from corral.engine.local.cache.cache import KeepOptions
from corral.engine.local.llama.modelfile import ModelFile
from corral.engine.local.llama.options import LlamaOptions
from corral.engine.local.options import EngineOptions
from corral.engine.upstream.options import FleetOptions
from corral.errors import StartupError
from corral.http.options import HttpOptions
from corral.serving.service import ServiceOptions
from corral.settings import LocalModel, Settings
from corral.transport.limits import Limits
from corral.wiring.local import open_draft, open_llama
from corral.wiring.options import pick
from corral.wiring.shelf import Shelved, find_models, shelf_bytes, shelve


def test_every_option_of_llama_cpp_is_the_setting_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[LlamaOptions] = []

    class Opened:
        summary = "nothing"

        def __init__(self, path: Path, options: LlamaOptions, prompts: object, is_wanted: object) -> None:
            opened.append(options)

    path = tmp_path / "m.gguf"
    path.touch()
    monkeypatch.setattr("corral.engine.local.llama.backend.LlamaBackend", Opened)
    monkeypatch.setattr("corral.engine.local.llama.fit.check_device", lambda options: None)
    monkeypatch.setattr("corral.engine.local.prompts.pool.PromptProcesses", lambda command: ExitStack())
    monkeypatch.setattr(
        "corral.engine.local.llama.modelfile.resolve", lambda model: ModelFile(path, "m", "here", False)
    )
    values: dict[str, Any] = {
        "ctx_tokens": 4096,
        "threads": 5,
        "gpu_layers": 6,
        "flash_attn": "on",
        "kv_type_k": "q8_0",
        "kv_type_v": "q4_0",
        "kv_cache": "per-slot",
        "pooling": "last",
    }
    assert {"engine", *values} == {own.name for own in fields(LlamaOptions)}
    settings = Settings(slots=3, deterministic=True, **values)
    open_llama(settings, None)
    assert opened == [LlamaOptions(pick(EngineOptions, settings), **values)]


def test_a_draft_model_makes_no_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[LlamaOptions] = []
    monkeypatch.setattr(
        "corral.engine.local.llama.backend.LlamaBackend", lambda path, options: opened.append(options)
    )
    monkeypatch.setattr(
        "corral.engine.local.llama.modelfile.resolve", lambda model: ModelFile(Path("m"), "m", "here", False)
    )
    open_draft(Settings(draft_model="small.gguf", pooling="mean"))
    assert [options.pooling for options in opened] == ["off"]


@pytest.mark.model
def test_models_of_a_shelf_are_found_with_what_they_will_take() -> None:
    one = LocalModel(name="one", ctx_tokens=2048, host_cache_bytes=0)
    two = LocalModel(ctx_tokens=1024, kv_cache="per-slot", load="first-use")
    settings = Settings(slots=4, host_cache_bytes=2**20, models=(one, two))
    first, second = find_models(settings)
    assert (first.name, second.name) == ("one", "SmolLM2-135M-Instruct")
    assert (first.loads_at_start, second.loads_at_start) == (True, False)
    assert (first.capacity.slots, first.capacity.request_ctx_tokens) == (4, 2048)
    assert first.settings.kv_cache == "shared", "what it takes must be known"
    caches = second.memory_bytes - 2**19 - first.memory_bytes
    assert caches == 2048 * 23_040, "4 times 1,024 tokens against 2,048"


def test_models_that_do_not_fit_are_refused_with_what_they_need() -> None:
    settings = Settings(models_memory_bytes=10)
    assert shelf_bytes(settings) == 10
    assert shelf_bytes(Settings()) > 2**28

    def shelved(size_bytes: int, at_start: bool) -> Shelved:
        return Shelved(
            "m", settings, Capacity(1, 9, 9), size_bytes, lambda _: pytest.fail("it was loaded"), at_start
        )

    with pytest.raises(StartupError, match="models_memory_bytes"):
        shelve([shelved(11, False)], 10)
    with pytest.raises(StartupError, match="first-use"):
        shelve([shelved(6, True), shelved(6, True)], 10)


WIRED = {
    "model",
    "draft_model",
    "models",
    "models_memory_bytes",
    "upstream",
    "upstream_key",
    "upstreams",
    "certfile",
    "keyfile",
    "log_level",
    "log_format",
    "stall_s",
    "trace_dir",
}


def test_every_setting_belongs_to_one_layer() -> None:
    """What belongs to none is read where the layers are put together."""
    owners = [
        LlamaOptions,
        EngineOptions,
        FleetOptions,
        KeepOptions,
        ServiceOptions,
        HttpOptions,
        DialectOptions,
        Limits,
    ]
    owned = [own.name for options in owners for own in fields(options)]
    settings = Settings.model_fields.keys()
    twice = {name for name in settings if owned.count(name) > 1}
    assert not twice
    assert settings - set(owned) == WIRED
