import subprocess
import sys

PROGRAM = """
from llama_cpp._ggml import libggml
from corral.engine.local.llama import assertions
assertions.end_in_one_line()
libggml.ggml_abort(b"/build/src/llama-model.cpp", 7, b"GGML_ASSERT(%s) failed", b"n_embd / n_head == 64")
"""


def test_a_failed_assertion_is_one_line_and_exit_code_1() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "corral: llama.cpp cannot go on: llama-model.cpp:7: GGML_ASSERT(n_embd / n_head == 64) failed\n"
    )
