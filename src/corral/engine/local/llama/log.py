"""llama.cpp's log, kept off stderr and sent to the logger `corral.llama`.

llama.cpp returns a bare null or code when something fails and says why only on its log, which is one
callback for the whole process. So the state here is the process's too: the callback, which must outlive
every call into the library, and the error lines since the last `install()`.
"""

import logging
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import llama_cpp

logger = logging.getLogger("corral.llama")

TRACE = 5
"""Level of what llama.cpp calls debug: lines from inside a step, too many even for `--log-level debug`."""

# The values of ggml_log_level in ggml.h. llama_cpp._logger lists an older numbering.
_CONTINUED = 5
_LEVELS = {
    1: TRACE,
    2: logging.DEBUG,  # "info" is some 150 lines about every model loaded: detail, for a server's log
    3: logging.WARNING,
    4: logging.ERROR,
}
_HARMLESS = "possible training context overflow"
"""It means a KV cache that is larger than the model's own context; no request uses more of it than that."""
_WHERE = re.compile(r"^(?:\w+: )?(?:error loading model: )?(?:\w+: )?")


class _Router:
    """Joins continued pieces to lines, logs them and remembers those that are errors.

    Pieces from two threads may be joined to one line; the log stays readable, nothing depends on it.
    """

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=16)
        self.quiet = False
        self._level = logging.DEBUG
        self._line = ""

    def take(self, level: int, piece: str) -> None:
        if level != _CONTINUED:
            self._flush()
            self._level = _LEVELS.get(level, logging.DEBUG)
        self._line += piece
        if self._line.endswith("\n"):
            self._flush()

    def _flush(self) -> None:
        line, self._line = self._line.strip(), ""
        if not line.strip("."):  # a progress bar
            return
        if self._level >= logging.ERROR:
            self.errors.append(line)
        is_detail = self.quiet or _HARMLESS in line
        logger.log(min(self._level, logging.DEBUG) if is_detail else self._level, "%s", line)


_router = _Router()


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _callback(level: int, text: bytes, _user_data: object) -> None:
    # Called by C, on any thread: nothing may be raised from here, and logging does not raise.
    _router.take(level, text.decode(errors="replace"))


def install() -> None:
    """Route llama.cpp's log to `corral.llama` and forget the errors of earlier calls. Idempotent."""
    _router.errors.clear()
    llama_cpp.llama_log_set(_callback, None)


@contextmanager
def quietly() -> Iterator[None]:
    """Log everything at debug level: for a call whose failure its caller reports, with `reason()`."""
    install()
    set_quiet(True)
    try:
        yield
    finally:
        set_quiet(False)


def set_quiet(is_quiet: bool) -> None:
    """From now on, log everything at debug level, or at its own. From any thread."""
    _router.quiet = is_quiet


def last_error() -> str | None:
    """The latest error line since `install()`, as llama.cpp wrote it."""
    return _router.errors[-1] if _router.errors else None


def reason() -> str:
    """Why the call that just failed did: the first error line since the last `reason()` or `install()`.

    llama.cpp reports a failure from the inside out, so the first line is the cause and the last one
    only says that loading failed.
    """
    lines = tuple(_router.errors)
    _router.errors.clear()
    return _WHERE.sub("", lines[0]) if lines else "llama.cpp gave no reason"
