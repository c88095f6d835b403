"""The user's own copy of the default model, requantized to Q4_0 and kept in the cache directory.

Q4_0 prefills and decodes batches three times as fast as the shipped Q4_1 on a CPU: llama.cpp has repacked
kernels for it. A copy is named by its own digest, so it is known to be whole or it is made again:

- A copy is written under another name, synced, named by its digest, and the directory is synced. A power cut
  leaves a whole copy, none, or one whose bytes do not fit its name.
- Each process writes a file of its own, so of two at once the last one wins with the same bytes, and a reader
  never sees half a file.
- The writer holds a lock on its file, which ends with its process. A file that nobody holds was left behind
  by one that was killed.
"""

import ctypes
import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import platformdirs

from corral.engine.local.llama import log

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger("corral.llama")

_WRITING = ".writing-"
_DIGEST_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class Copies:
    """Copies of one file. `stem` begins their names and tells the original's name, version and size."""

    stem: str

    def find(self) -> Path | None:
        """A copy that is whole, or None; one that is not is removed. Raises OSError.

        Blocks for as long as it takes to read it: 0.05 s for 92 MB that lie in memory.
        """
        folder = _cache()
        _remove_leftovers(folder)
        for path in sorted(folder.glob(f"{self.stem}-*.gguf")):
            if path == self._named(folder, _digest(path)):
                return path
            logger.warning("%s is damaged; making it again", path)
            path.unlink(missing_ok=True)
        return None

    def make(self, original: Path) -> Path:
        """Requantize `original`. Blocks for tenths of a second. Raises OSError where it cannot be written."""
        folder = _cache()
        folder.mkdir(parents=True, exist_ok=True)
        with _written(folder) as written:
            params = llama_cpp.llama_model_quantize_default_params()
            params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
            params.allow_requantize = True
            with log.quietly():
                failed = llama_cpp.llama_model_quantize(
                    os.fsencode(original), os.fsencode(written), ctypes.byref(params)
                )
            if failed:
                raise OSError(log.reason())
            with written.open("rb+") as file:
                os.fsync(file.fileno())
            target = self._named(folder, _digest(written))
            os.replace(written, target)
        _sync_names(folder)
        return target

    def _named(self, folder: Path, digest: str) -> Path:
        return folder / f"{self.stem}-{digest}.gguf"


def _cache() -> Path:
    """The user's cache directory, which need not exist. Raises OSError if nothing says where it is."""
    try:
        # platformdirs honours XDG_CACHE_HOME on Linux and has the right place on macOS and Windows.
        return platformdirs.user_cache_path("corral", appauthor=False)
    except RuntimeError:  # neither HOME nor an entry in the list of users, as in many a container
        raise OSError("no home directory; set HOME or XDG_CACHE_HOME") from None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGEST_CHARACTERS]


def _sync_names(folder: Path) -> None:
    if sys.platform == "win32":  # where a directory cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _written(folder: Path) -> Iterator[Path]:
    """A new file of ours in `folder`, locked, which is gone afterwards unless it was renamed."""
    handle, name = tempfile.mkstemp(prefix=_WRITING, suffix=".gguf", dir=folder)
    with os.fdopen(handle, "rb+") as file:
        try:
            if sys.platform == "win32":
                file.close()  # there an open file cannot be renamed; llama.cpp opens its own
            else:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield Path(name)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(f"{_WRITING}*.gguf"):
        with suppress(OSError):  # somebody's, or somebody was faster
            with path.open("rb") as file:
                if sys.platform != "win32":
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
