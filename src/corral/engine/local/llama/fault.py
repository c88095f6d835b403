"""What is wrong with a model file, in one printable line; and what a failed step means."""

import re
from pathlib import Path

from corral.engine.local.backend import BackendLost, StepAborted
from corral.engine.local.llama import log
from corral.errors import EngineFailed, StartupError
from corral.printable import one_line

_WHERE = re.compile(r"^.*?/(?=[^/]+\.\w+:\d+: )")
_TRUNCATED = ("not within the file bounds", "failed to read")


class ModelFileError(StartupError):
    """There is no usable model file where one was named.

    The message may quote the file, which says what it likes: control characters in it are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def load_failure(path: Path) -> ModelFileError:
    """Why llama.cpp just failed to load `path`, from its log, with what to do about it."""
    reason = log.reason()
    if any(phrase in reason for phrase in _TRUNCATED):
        size_mb = path.stat().st_size / 1e6
        return ModelFileError(
            f"{path} ({size_mb:,.1f} MB) is truncated or damaged; download it again ({reason})"
        )
    return ModelFileError(f"llama.cpp cannot load {path}: {reason}")


def without_path(said: str) -> str:
    """What llama.cpp says of a line of its source, which it names by the path where it was built."""
    return _WHERE.sub("", said)


def decode_failure(code: int) -> Exception:
    """What the return code of llama_decode and llama_encode means (llama.h)."""
    match code:
        case 1:
            return EngineFailed("the KV cache has no room for this step")
        case 2:
            return StepAborted()
        case -1:
            return EngineFailed("llama.cpp refused the batch")
        case _:
            return BackendLost(f"llama.cpp failed in a step (code {code})")
