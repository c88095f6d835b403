"""Where static/ and tools/ are: inside the package in a wheel, beside src/ in the source tree."""

from pathlib import Path


def static_folder() -> Path:
    """The folder of the files that corral serves as they are."""
    return _folder("static", "static")


def tools_folder() -> Path:
    """The folder of the package `tools`, which measures servers and is no part of one."""
    return _folder("bundled/tools", "tools")


def _folder(installed: str, in_tree: str) -> Path:
    package = Path(__file__).resolve().parent
    return package / installed if (package / installed).is_dir() else package.parents[1] / in_tree
