"""The default model's Q4_0 copy: known to be whole or made again, and nothing left behind."""

import fcntl
import logging
import os
import sys
from pathlib import Path

import pytest

from corral.engine.local.llama.modelfile import describe, resolve

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(sys.platform == "win32", reason="locks and XDG_CACHE_HOME are not Windows'"),
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "corral"


@pytest.fixture
def copy(cache: Path) -> Path:
    return resolve(None).path


@pytest.mark.parametrize("damage", ["empty", "truncated", "a bit"])
def test_a_damaged_copy_is_made_again(
    damage: str, copy: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = copy.read_bytes()
    if damage == "a bit":
        with copy.open("rb+") as file:
            file.seek(50_000_000)
            byte = file.read(1)[0]
            file.seek(50_000_000)
            file.write(bytes([byte ^ 1]))
    else:
        os.truncate(copy, 0 if damage == "empty" else 40_000_000)
    assert resolve(None).path == copy
    assert copy.read_bytes() == whole
    assert list(cache.iterdir()) == [copy]
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == [f"{copy} is damaged; making it again"]


def test_a_copy_of_another_name_is_not_taken_for_this_one(copy: Path) -> None:
    other = copy.with_name(copy.name.replace(".Q4_0-", ".Q4_0-0"))
    other.write_bytes(b"another version's")
    assert resolve(None).path == copy
    assert other.exists()


def test_what_a_killed_writer_left_is_removed_and_what_one_writes_now_is_not(copy: Path, cache: Path) -> None:
    left, written = cache / ".writing-left.gguf", cache / ".writing-now.gguf"
    left.write_bytes(b"GGUF")
    with written.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        resolve(None)
        assert sorted(cache.iterdir()) == sorted([copy, written])
    resolve(None)
    assert list(cache.iterdir()) == [copy]


def test_a_file_being_written_is_locked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        for path in cache.glob(".writing-*.gguf"):
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    held.append(True)
                else:
                    held.append(False)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    resolve(None)
    assert held == [True]


def test_the_file_is_synced_before_it_has_its_name_and_the_directory_after(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        has_its_name = any(cache.glob("SmolLM2*.gguf"))
        synced.append((name.partition("-")[0], has_its_name))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    resolve(None)
    assert synced == [(".writing", False), ("corral", True)]


def test_without_a_home_directory_the_shipped_file_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nobody(*arguments: object, **options: object) -> Path:
        raise RuntimeError("Could not determine home directory.")  # as pathlib says it, for platformdirs

    monkeypatch.setattr("platformdirs.user_cache_path", nobody)
    assert describe(resolve(None).path).quantization == "Q4_1"
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "no home directory; set HOME or XDG_CACHE_HOME" in record.getMessage()
