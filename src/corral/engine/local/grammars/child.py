"""Compiles grammars in a process that may die of them: what runs in it.

    python -m corral.engine.local.grammars.child

It reads frames from its standard input: first what the vocabulary is like, then grammars, one at a time; each
is answered on its standard output with why it cannot be followed, or with nothing. Two threads: one reads
and hears that nobody is left (end of file: the process exits), the other one compiles.

The time of one compilation is the processor's, so a machine that is busy refuses nothing that another takes.

A vocabulary is known here by its size and the names of its control tokens. A grammar may speak of these, and
of any token by number; the text of the others has no say in how long the compilation takes, but makes the
tokenizer itself slow to make (2 s for 49,152 tokens, where these take 0.04 s).
"""

import os
import struct
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import msgspec
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from corral.engine.local.grammars.source import Unfollowable, problem_of, source_of
from corral.request import Grammar

CPU_S: Final = 4.0
"""What a grammar may take of the processor's time. All that is known to be of use takes 2 s at most."""
MEMORY_BYTES: Final = 512 * 2**20
"""What it may take, beside what the process has before."""
STACK_BYTES: Final = 96 * 2**20
"""Less than the server's own thread has: what would overflow that one overflows this one first."""
LENGTH: Final = struct.Struct(">I")


class Shape(msgspec.Struct, frozen=True):
    """A vocabulary without its words: how many tokens it has, its control tokens, and what ends an answer."""

    tokens: int
    controls: dict[str, int]
    ends: tuple[int, ...]


_shapes: Final = msgspec.msgpack.Decoder(Shape)
_grammars: Final = msgspec.msgpack.Decoder(Grammar)


def frame(body: bytes) -> bytes:
    return LENGTH.pack(len(body)) + body


class _Tokens:
    """As llguidance reads a vocabulary: one of nothing but names, and each byte behind them."""

    def __init__(self, shape: Shape) -> None:
        names = {token: text.encode() for text, token in shape.controls.items() if text}
        self.tokens = [b"\xff" + names.get(token, b"[%d]" % token) for token in range(shape.tokens)]
        self.tokens += [bytes([byte]) for byte in range(256)]
        self.special_token_ids = list(range(shape.tokens))
        self.eos_token_id = min(shape.ends)
        self.bos_token_id = None
        self._first_byte = shape.tokens

    def __call__(self, text: str | bytes) -> list[int]:
        return [self._first_byte + byte for byte in (text if isinstance(text, bytes) else text.encode())]


def main() -> None:
    """Read until the end of the input. Does not return."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed by mistake is no answer
    bodies: SimpleQueue[bytes] = SimpleQueue()
    threading.stack_size(STACK_BYTES)

    def compile_all() -> None:
        shape = _shapes.decode(bodies.get())
        tokenizer = LLTokenizer(TokenizerWrapper(_Tokens(shape)), eos_token=list(shape.ends))
        _bound_memory()
        while True:
            grammar = _grammars.decode(bodies.get())
            _end_after(CPU_S)
            problem = _problem(grammar, tokenizer)
            _end_after(0)
            answers.write(frame(problem.encode("utf-8", "replace")))
            answers.flush()

    def run() -> None:
        try:
            compile_all()
        finally:
            os._exit(1)

    threading.Thread(target=run, daemon=True).start()
    while True:
        header = sys.stdin.buffer.read(LENGTH.size)
        if len(header) < LENGTH.size:
            os._exit(0)  # the other thread may be busy for hours
        [length] = LENGTH.unpack(header)
        bodies.put(sys.stdin.buffer.read(length))


def _problem(grammar: Grammar, tokenizer: LLTokenizer) -> str:
    try:
        matcher = LLMatcher(tokenizer, source_of(grammar), log_level=0)
    except Unfollowable as error:
        return str(error)
    return problem_of(matcher) if matcher.is_error() else ""


def _end_after(cpu_s: float) -> None:
    """Have the system end this process when it has taken so much more of the processor's time; 0: not."""
    if sys.platform != "win32":
        import signal

        signal.setitimer(signal.ITIMER_PROF, cpu_s)


def _bound_memory() -> None:
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        bound_bytes = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (bound_bytes, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        Path("/proc/self/oom_score_adj").write_text(
            "1000"
        )  # if memory runs out, it is this process that goes


if __name__ == "__main__":
    main()
