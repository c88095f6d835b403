"""A model file is first opened in a process that may die.

llama.cpp checks much of a file and reports it, but it also asserts: on a count of layers, on a token that
occurs twice, on a norm's epsilon in the first step. An assertion ends the process, and so does a C++
exception that leaves the library or a division by a count that is zero. So a child process does what the
server will do: it loads the file, makes a context, tokenizes, computes one token and compiles the template.

What the child costs is the start of Python and the vocabulary's loading time, 0.4 s for 49,152 tokens.
Weights of more than FULL_BYTES are not read: llama.cpp then goes through all but the computing without
them (`no_alloc`). The child has a limit of processor time, since a file can also ask for endless work.

Run as a program it is that child: `python -m corral.engine.local.llama.trial FILE`.
"""

from __future__ import annotations  # the bindings define their pointer types for type checkers only

import ctypes
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import llama_cpp

from corral.engine.local.llama import log
from corral.engine.local.llama.fault import ModelFileError, load_failure, without_path
from corral.engine.local.llama.hub import SHARD

FULL_BYTES = 512 * 2**20
LOADING_CPU_S = 15
CPU_S = 2  # of each stage that does not look at the weights
WALL_LIMIT_S = 60  # a disk may be slow; what computes meets the other limits first
MEMORY_BYTES = 4 * 2**30  # beside what is mapped

_BATCH_TOKENS = 512
_NO_DEVICES = (ctypes.c_void_p * 1)(None)  # a list that ends at once: what is tried is tried on the CPU
_REASONS = (re.compile(r"GGML_ASSERT|fatal error"), re.compile(r"what\(\): *"))

# Every byte that UTF-8 text may hold, in characters so rare that a tokenizer has to fall back to bytes.
_EVERY_BYTE = (
    "".join(map(chr, (*range(0x800), *range(0x800, 0xD800, 0x800), *range(0xE000, 0x10000, 0x1000))))
    + "\U00010000\U00050000\U00090000\U000d0000\U0010ffff"
    + "  a  b\n\n\t\t c"  # blanks in a row are a word of their own to some
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The file can be loaded and run. `template_fault` is why its chat template cannot be compiled."""

    template_fault: str | None


def run(path: Path) -> Verdict:
    """Try a model file in a child process. Blocks; see above. Raises ModelFileError."""
    environment = {
        **os.environ,
        "GGML_NO_BACKTRACE": "1",  # else a debugger is started, whose helpers can wait for each other
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # the same corral as here
    }
    try:
        finished = subprocess.run(
            [sys.executable, "-P", "-m", __name__, os.fspath(path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            timeout=WALL_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        stage = _stage(expired.stdout or b"")
        raise ModelFileError(f"{stage} {path} takes longer than {WALL_LIMIT_S} s") from None
    except OSError as error:
        raise ModelFileError(f"cannot start a process to try {path} in: {error.strerror}") from None
    if finished.returncode != 0:
        raise _death(path, finished)
    result = json.loads(finished.stdout.splitlines()[-1])
    if result["fault"] is not None:
        raise ModelFileError(result["fault"])
    return Verdict(result["template_fault"])


def _stage(output: bytes) -> str:
    """What the child was doing, by the last line it wrote."""
    lines = output.decode(errors="replace").splitlines()
    return lines[-1] if lines else "opening"


def _death(path: Path, finished: subprocess.CompletedProcess[bytes]) -> ModelFileError:
    stage = _stage(finished.stdout)
    reason = _last_words(finished.stderr.decode(errors="replace").splitlines())
    if finished.returncode > 0:  # no signal: Python itself failed
        return ModelFileError(f"{stage} {path} fails: {reason or f'exit code {finished.returncode}'}")
    number = -finished.returncode
    if sys.platform != "win32" and number == signal.SIGXCPU:
        return ModelFileError(f"{stage} {path} takes too much processor time")
    if not reason:
        reason = "perhaps for lack of memory" if number == 9 else "the file is damaged, or made to do this"
    return ModelFileError(f"llama.cpp dies with {_signal_name(number)} while {stage} {path}: {reason}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_words(lines: list[str]) -> str:
    """What a dying process said about it: the failed assertion, the exception, else its last line."""
    for pattern in _REASONS:
        for line in lines:
            if pattern.search(line):
                return without_path(line).strip()
    return lines[-1].strip() if lines else ""


# In the child


def main(path: Path) -> None:
    """Try the file and print the result as the last line; before it, a line for each stage that begins."""
    _bound()
    fault = template_fault = None
    try:
        template_fault = _try(path)
    except ModelFileError as error:
        fault = str(error)
    print(json.dumps({"fault": fault, "template_fault": template_fault}))


def _bound() -> None:
    """Limit this process, and see to it that it does not outlive the one that waits for it."""
    if sys.platform == "win32":
        return
    import resource

    _limit(resource.RLIMIT_CORE, 0)
    if sys.platform == "linux":
        _limit(resource.RLIMIT_DATA, MEMORY_BYTES)
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        with suppress(OSError):  # a sandbox may have no /proc, or one that cannot be written
            # If memory runs out, it is this process that goes.
            Path("/proc/self/oom_score_adj").write_text("1000")


def _limit(kind: int, value: int) -> None:
    """Lower a limit of this process; one that is lower already stays."""
    if sys.platform == "win32":
        return
    import resource

    highest = resource.getrlimit(kind)[1]
    soft = value if highest == resource.RLIM_INFINITY else min(value, highest)
    resource.setrlimit(kind, (soft, highest))


def _try(path: Path) -> str | None:
    """Do with the file what the server will do. Raises ModelFileError; the return value is a Verdict's."""
    is_full = path.stat().st_size <= FULL_BYTES and not SHARD.search(path.stem)
    _begin("loading", LOADING_CPU_S)
    with log.quietly():
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), _model_params(is_full))
        if model is None:
            raise load_failure(path)
        for key, value in _metadata(model):
            if not _is_sane(key, value):
                raise ModelFileError(f"{path} says that {key} is {value}")
        if (ctx_tokens := llama_cpp.llama_model_n_ctx_train(model)) < 1:
            raise ModelFileError(f"{path} says that it was trained on a context of {ctx_tokens} tokens")
        vocab = llama_cpp.llama_model_get_vocab(model)
        if llama_cpp.llama_vocab_type(vocab) == llama_cpp.LLAMA_VOCAB_TYPE_NONE:
            raise ModelFileError(f"{path} has no vocabulary")
        _begin("making a context for", LOADING_CPU_S)
        context = llama_cpp.llama_init_from_model(model, _context_params())
        if context is None:
            raise ModelFileError(f"llama.cpp cannot make a context for {path}: {log.reason()}")
        _begin("tokenizing with")
        token = _tokenize(model, path)
        if is_full and llama_cpp.llama_get_memory(context) is not None:
            _begin("computing a token with", LOADING_CPU_S)
            batch = llama_cpp.llama_batch_get_one((llama_cpp.llama_token * 1)(token), 1)
            if llama_cpp.llama_decode(context, batch) != 0:
                raise ModelFileError(f"llama.cpp cannot compute a token with {path}: {log.reason()}")
        elif is_full:  # it only reads
            _begin("making a vector with", LOADING_CPU_S)
            _embed(model, token, path)
    template = llama_cpp.llama_model_chat_template(model, None)
    _begin("compiling the chat template of")
    return _template_fault(template.decode(errors="replace")) if template else None


def _begin(stage: str, cpu_s: int = CPU_S) -> None:
    """Say what is done next, and give it so much processor time."""
    print(stage, flush=True)
    if sys.platform != "win32":
        import resource

        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + cpu_s)


def _model_params(is_full: bool) -> llama_cpp.llama_model_params:
    params: llama_cpp.llama_model_params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    params.devices = ctypes.addressof(_NO_DEVICES)  # type: ignore[assignment]  # a void pointer in truth
    params.use_extra_bufts = False  # weights stay where they are mapped
    if not is_full:
        params.no_alloc = True
        params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
    return params


def _context_params() -> llama_cpp.llama_context_params:
    """As the backend's, but small, and with one thread: its processor time is limited."""
    params: llama_cpp.llama_context_params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = _BATCH_TOKENS
    params.n_seq_max = params.n_outputs_max = 2
    params.n_threads = params.n_threads_batch = 1
    params.kv_unified = True
    params.swa_full = False
    params.no_perf = True
    return params


def _embed(model: llama_cpp.llama_model_p, token: int, path: Path) -> None:
    """Make a vector of one token. Raises ModelFileError."""
    params = _context_params()
    params.embeddings = True
    params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_MEAN
    params.n_outputs_max = 0
    context = llama_cpp.llama_init_from_model(model, params)
    if context is None:
        raise ModelFileError(f"llama.cpp cannot make a context for {path}: {log.reason()}")
    batch = llama_cpp.llama_batch_get_one((llama_cpp.llama_token * 1)(token), 1)
    if llama_cpp.llama_encode(context, batch) != 0:
        raise ModelFileError(f"llama.cpp cannot make a vector with {path}: {log.reason()}")


def _metadata(model: llama_cpp.llama_model_p) -> Iterator[tuple[str, str]]:
    """All of the file's metadata but arrays, as text, and no more of a text than a number could have."""
    buffer = ctypes.create_string_buffer(256)
    for index in range(llama_cpp.llama_model_meta_count(model)):
        llama_cpp.llama_model_meta_key_by_index(model, index, buffer, len(buffer))
        key = buffer.value.decode(errors="replace")
        llama_cpp.llama_model_meta_val_str_by_index(model, index, buffer, len(buffer))
        yield key, buffer.value.decode(errors="replace")


def _is_sane(key: str, value: str) -> bool:
    """Not where a number is none, or an epsilon is negative: computing with weights would assert on it."""
    if "epsilon" in key and (value.startswith("-") or value == "inf"):
        return False
    return value not in ("nan", "-nan") or key.startswith(("general.", "tokenizer."))


def _tokenize(model: llama_cpp.llama_model_p, path: Path) -> int:
    """Tokenize all bytes there are, which a vocabulary may lack; returns a token to compute with."""
    vocab = llama_cpp.llama_model_get_vocab(model)
    raw = _EVERY_BYTE.encode()
    tokens = (llama_cpp.llama_token * (2 * len(raw)))()
    if llama_cpp.llama_tokenize(vocab, raw, len(raw), tokens, len(tokens), False, True) < 0:
        raise ModelFileError(f"the vocabulary of {path} makes more than two tokens of one byte")
    bos: int = llama_cpp.llama_vocab_bos(vocab)
    return max(bos, 0)


def _template_fault(template: str) -> str | None:
    # Imported here: the parent does not need it.
    from corral.templates.environment import ChatTemplate, TemplateFault

    try:
        compiled = ChatTemplate(template)
    except TemplateFault as fault:
        return str(fault)
    _begin("rendering the chat template of")
    with suppress(TemplateFault):  # it may want a system message, or other variables
        compiled.render([{"role": "user", "content": "Hello!"}])
    return None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
