"""The programs that people run, as they run them: by their path, from anywhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(program: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The program in that folder, with the corral of this tree whatever is installed."""
    command = [sys.executable, str(ROOT / "tools" / program), *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=150)


@pytest.mark.parametrize(
    "program", ["bench.py", "loadtest.py", "soak.py", "servers/scripted.py", "servers/waiting.py"]
)
def test_it_starts_from_any_directory_and_says_what_it_takes(program: str, tmp_path: Path) -> None:
    done = run(program, "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_a_soak_of_two_seconds_finds_everything_back(tmp_path: Path) -> None:
    done = run("soak.py", "--minutes", "0.03", "--settle", "1", "--rehearsals", "1", folder=tmp_path)
    assert "exit: with another code than 0 0 <= 0" in done.stdout, done.stdout + done.stderr
    assert "texts: wrong 0 <= 0" in done.stdout
