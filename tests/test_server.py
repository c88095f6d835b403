"""What `corral serve` says once it is ready, and how a start that fails ends."""

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import trio

from corral import server
from corral.engine.local.llama.backend import LlamaOptions
from corral.engine.local.llama.modelfile import ModelFile
from corral.engine.local.scripted import ScriptedBackend
from corral.errors import StartupError
from corral.settings import Settings


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1/chat/completions"),
        ("http://0.0.0.0:8000", "http://127.0.0.1:8000/v1/chat/completions"),
        ("https://[::]:8443", "https://[::1]:8443/v1/chat/completions"),
    ],
)
def test_the_curl_line_goes_to_an_address_one_can_talk_to(address: str, url: str) -> None:
    words = shlex.split(server.greeting(address, "it's", Settings()).partition("\n")[2])
    assert words[:3] == ["curl", "-N", url]
    assert words[-1].startswith('{"model": "it\'s", "stream": true, ')


def test_the_curl_line_has_room_for_a_key_and_shows_none() -> None:
    line = server.greeting("http://127.0.0.1:8000", "m", Settings(api_keys=("sesame",)))
    assert "Authorization: Bearer YOUR_KEY" in line
    assert "sesame" not in line


def test_every_option_of_llama_cpp_is_the_setting_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[LlamaOptions] = []
    monkeypatch.setattr(
        "corral.engine.local.llama.backend.LlamaBackend", lambda path, options: opened.append(options)
    )
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
        "kv_unified": "off",
    }
    assert set(values) == {own.name for own in fields(LlamaOptions)}
    server.open_llama(Settings(**values), None)
    assert opened == [LlamaOptions(**values)]


def _broken(error: Exception) -> server.Application:
    def open_model() -> tuple[ScriptedBackend, str]:
        raise error

    return server.Application(Settings(), open_model)


@pytest.mark.parametrize("error", [StartupError("no such model"), ZeroDivisionError("a bug")])
def test_a_start_that_fails_ends_with_the_reason_itself(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(type(error), match=str(error)):
        trio.run(server._serve, Settings(bind="127.0.0.1:0"), _broken(error))
    assert not caplog.records
