"""The wheel holds all of corral and works from any directory."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from corral.assets import static_folder

ROOT = Path(__file__).parent.parent


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_source_tree_serves_its_own_static_folder() -> None:
    assert static_folder() == ROOT / "static"


def test_the_wheel_holds_the_package_the_app_and_the_static_files(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"app.py", "corral/asgi.py", "corral/__main__.py", "corral/py.typed"} <= names
    sources = {f"corral/{name}" for name in files_below(ROOT / "src" / "corral") if name.endswith(".py")}
    assert sources <= names
    assert {f"corral/static/{name}" for name in files_below(ROOT / "static")} <= names


def test_the_wheel_brings_the_load_test_and_runs_it_from_another_directory(
    wheel: Path, tmp_path: Path
) -> None:
    installed, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(installed)
    elsewhere.mkdir()
    code = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "from corral.__main__ import main\n"
        "try: main(['loadtest', '--help'])\n"
        "finally: print(sys.modules['tools'].__file__)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=elsewhere, check=True, capture_output=True, text=True
    )
    assert "usage: corral loadtest" in finished.stdout
    folder = Path(finished.stdout.splitlines()[-1]).parent
    assert folder == installed / "corral" / "bundled" / "tools"


def test_the_wheel_finds_its_static_files_from_another_directory(wheel: Path, tmp_path: Path) -> None:
    installed, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(installed)
    elsewhere.mkdir()
    code = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "from corral.assets import static_folder; print(static_folder())"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=elsewhere, check=True, capture_output=True, text=True
    )
    folder = Path(finished.stdout.strip())
    assert folder == installed / "corral" / "static"
    assert files_below(folder) == files_below(ROOT / "static")
