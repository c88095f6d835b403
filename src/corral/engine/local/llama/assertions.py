"""What llama.cpp asserts ends the process, as it must: its state is not what it was thought to be.

By itself it does so with a signal, a core file and some twenty lines. Most of what a model file could make it
assert on is found before, in a process that may die (`trial`); what is left, such as a file of which no
weights were read there, is told here in one line.
"""

import ctypes
import os
import sys

from llama_cpp._ggml import libggml

from corral.engine.local.llama.fault import without_path
from corral.printable import one_line, say

EXIT_CODE = 1


@ctypes.CFUNCTYPE(None, ctypes.c_char_p)  # type: ignore[untyped-decorator]
def _callback(message: bytes) -> None:
    # Called by C on any thread, which cannot go on; and nothing else of this process may, or memory is freed
    # that is in use.
    said = message.decode(errors="replace")
    say(one_line(f"corral: llama.cpp cannot go on: {without_path(said)}"), sys.stderr)
    sys.stderr.flush()
    os._exit(EXIT_CODE)


def end_in_one_line() -> None:
    """From now on a failed assertion ends this process with a line on stderr and exit code 1."""
    libggml.ggml_set_abort_callback(_callback)
