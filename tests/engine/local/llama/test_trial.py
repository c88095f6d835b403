"""Trying a model file in a process that may die: how its end is told, and that it does end."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fuzz.encoder import small_encoder
from tests.fuzz.gguf import INT32, UINT16, UINT32, number, small_model, text

from corral.engine.local.llama import trial
from corral.engine.local.llama.fault import ModelFileError

pytestmark = pytest.mark.model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(small_model().written())
    return path


def without_layers(path: Path) -> None:
    gguf = small_model()
    gguf.metadata = [entry for entry in gguf.metadata if entry.key != b"llama.block_count"]
    gguf.metadata.append(number("llama.block_count", UINT32, 0))
    path.write_bytes(gguf.written())


def test_a_model_that_is_well_has_no_fault(path: Path) -> None:
    assert trial.run(path).template_fault is None


def test_an_assertion_is_told_with_its_signal_and_without_where_llama_cpp_was_built(path: Path) -> None:
    without_layers(path)
    with pytest.raises(ModelFileError) as raised:
        trial.run(path)
    assert re.fullmatch(
        rf"llama\.cpp dies with SIGABRT while loading {path}: "
        r"llama-model\.cpp:\d+: GGML_ASSERT\(hparams\.n_layer_all > 0 .*\) failed",
        str(raised.value),
    )


def test_a_model_too_large_to_be_read_twice_is_tried_without_its_weights(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.truncate(path, trial.FULL_BYTES + 1)  # a hole at the end, which takes no room
    assert trial.run(path).template_fault is None
    without_layers(path)
    os.truncate(path, trial.FULL_BYTES + 1)
    with pytest.raises(ModelFileError, match="SIGABRT"):
        trial.run(path)


def test_a_split_model_is_tried_with_all_its_files(tmp_path: Path) -> None:
    whole = small_model()
    halves = whole.tensors[:10], whole.tensors[10:]
    paths = [tmp_path / f"m-{number:05}-of-00002.gguf" for number in (1, 2)]
    for index, (path, tensors) in enumerate(zip(paths, halves, strict=True)):
        shard = small_model()
        shard.tensors = tensors
        shard.metadata += [
            number("split.no", UINT16, index),
            number("split.count", UINT16, 2),
            number("split.tensors.count", INT32, len(whole.tensors)),
        ]
        path.write_bytes(shard.written())
    assert trial.run(paths[0]).template_fault is None
    paths[1].unlink()
    with pytest.raises(ModelFileError, match=r"cannot load .*00002-of-00002\.gguf"):
        trial.run(paths[0])


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_limits_that_are_lower_already_are_kept(path: Path) -> None:
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom corral.engine.local.llama import trial\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (10, 10))\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (2**31, 2**31))\n"
        "print(trial.run(Path(sys.argv[1])))"
    )
    finished = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert finished.stdout == "Verdict(template_fault=None)\n", finished.stderr


def test_what_was_being_done_is_told_of_endless_work(path: Path) -> None:
    gguf = small_model()
    gguf.scalar("tokenizer.ggml.model").raw = text(b"rwkv")
    path.write_bytes(gguf.written())
    with pytest.raises(ModelFileError, match=f"^tokenizing with {path} takes too much processor time$"):
        trial.run(path)


def test_a_process_that_only_waits_has_an_end_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "WALL_LIMIT_S", 0.001)
    with pytest.raises(ModelFileError, match=r"takes longer than 0\.001 s$"):
        trial.run(path)


def test_no_process_to_try_it_in(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ModelFileError, match=f"^cannot start a process to try {path} in: No such file"):
        trial.run(path)


@pytest.mark.parametrize(
    ("code", "stderr", "told"),
    [
        (
            -6,
            "/b/x.cpp:7: GGML_ASSERT(a) failed\n",
            "dies with SIGABRT while loading m: x.cpp:7: GGML_ASSERT(a)",
        ),
        (-6, "terminate called\n  what():  vector::at\n", "SIGABRT while loading m: what():  vector::at"),
        (-8, "", "SIGFPE while loading m: the file is damaged, or made to do this"),
        (-9, "", "SIGKILL while loading m: perhaps for lack of memory"),
        (-42, "", "signal 42 while loading m"),
        (1, "Traceback\nMemoryError\n", "loading m fails: MemoryError"),
        (3, "", "loading m fails: exit code 3"),
    ],
)
def test_every_end_has_a_name(code: int, stderr: str, told: str) -> None:
    finished = subprocess.CompletedProcess([], code, b"loading\n", stderr.encode())
    assert told in str(trial._death(Path("m"), finished))


def test_the_child_imports_the_corral_of_its_parent_and_nothing_from_where_it_is_started(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(5)")
    monkeypatch.chdir(tmp_path)
    assert trial.run(path).template_fault is None


def test_a_model_that_only_reads_is_tried_with_a_vector(tmp_path: Path) -> None:
    path = tmp_path / "encoder.gguf"
    path.write_bytes(small_encoder().written())
    assert trial.run(path).template_fault is None
    finished = subprocess.run(
        [sys.executable, "-m", trial.__name__, path], capture_output=True, check=True, text=True
    )
    assert "making a vector with" in finished.stdout
