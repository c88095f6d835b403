"""Where the files of static/ are: inside the package in a wheel, beside src/ in the source tree."""

from pathlib import Path


def static_folder() -> Path:
    """The folder of the files that corral serves as they are."""
    package = Path(__file__).resolve().parent
    installed = package / "static"
    return installed if installed.is_dir() else package.parents[1] / "static"
