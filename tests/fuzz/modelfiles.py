"""Damaged and hostile model files, made by the thousand: none may abort, hang or show a traceback.

    python -m tests.fuzz.modelfiles --count 2000 [--seed 1] [--jobs 2] [--keep FOLDER]

A tiny Llama model of two layers and 300 tokens is described as data, changed in one to three places, and
written. Each file is given to `corral model` and, if that says the model is well, loaded as the server loads
it and made to compute its first token. Each of both runs in a forked process, with no more than LIMIT_S of
time and MEMORY_BYTES of memory, and must end in one of two ways: well, or with exit code 1 and one line on
stderr. One seed makes the same file everywhere. The figures are in docs/security.md.
"""

import argparse
import faulthandler
import logging
import os
import pickle
import queue
import resource
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.fuzz.mutations import mutant

LIMIT_S = 20
MEMORY_BYTES = 8 * 2**30
RIGHT = {"well", "refused"}


@dataclass(frozen=True)
class Outcome:
    """How a process ended: exit code, or the negative number of the signal; None if it did not."""

    code: int | None
    stderr: str
    seconds: float

    @property
    def kind(self) -> str:
        if self.code is None:
            return "hang"
        if "Traceback" in self.stderr:
            return "traceback"
        if self.code < 0:
            return "abort"
        if self.code == 0:
            return "well"
        is_one_line = self.stderr.count("\n") == 1 and self.stderr.startswith("corral: ")
        return "refused" if self.code == 1 and is_one_line and self.stderr[:-1].isprintable() else "unclear"

    @property
    def is_right(self) -> bool:
        return self.kind in RIGHT


def describe(path: Path) -> int:
    from corral.__main__ import main

    return main(["model", "--model", str(path)])


def load_and_decode(path: Path) -> int:
    """What the server does until the first token of the first request; 1 where it says why it cannot."""
    from corral.engine.local.backend import Chunk
    from corral.engine.local.llama.backend import LlamaBackend
    from corral.engine.local.llama.modelfile import resolve
    from corral.engine.local.llama.options import LlamaOptions
    from corral.engine.local.options import EngineOptions
    from corral.engine.local.prompts.writer import PromptWriter
    from corral.errors import CorralError, StartupError
    from corral.request import GenerationRequest, Message, Sampling
    from corral.templates.environment import TemplateFault

    try:
        model_file = resolve(str(path))
        if model_file.template_fault is not None:
            raise StartupError(f"the chat template does not compile: {model_file.template_fault}")
        backend = LlamaBackend(model_file.path, LlamaOptions(EngineOptions(slots=2), threads=1))
        writer = PromptWriter(backend.model.chat_format, backend.model.vocabulary)
        request = GenerationRequest(messages=(Message("user", "The river ran past the old mill."),))
        prompt = writer.write(request).tokens.tolist()
        backend.decode([Chunk(0, 0, prompt[: backend.cache.shape.sequence_ctx_tokens], 1)])
        sampler = backend.sampler(Sampling(temperature=0), prompt)
        backend.logprobs(0, sampler.sample(0), 2)
    except (CorralError, StartupError, TemplateFault) as error:
        print(f"corral: {error}", file=sys.stderr)
        return 1
    return 0


def run(program: Callable[[Path], int], path: Path, limit_s: float) -> Outcome:
    """Run a program on a file in a fork of this process, which must not have started threads of its own."""
    with tempfile.TemporaryFile() as stderr:
        start_s = time.monotonic()
        child = os.fork()
        if child == 0:
            _become(program, path, stderr.fileno())
        code = _exit_code(child, start_s + limit_s)
        seconds = time.monotonic() - start_s
        stderr.seek(0)
        return Outcome(code, stderr.read().decode(errors="replace"), seconds)


def _become(program: Callable[[Path], int], path: Path, stderr: int) -> None:
    """Never returns: what is above in the stack belongs to the parent."""
    code = 70
    faulthandler.disable()
    try:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(stderr, 2)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
        logging.lastResort = None  # the server's log is not what is looked at
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = program(path)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise
    finally:
        os._exit(code)


def _exit_code(child: int, deadline_s: float) -> int | None:
    """Wait for a process to end; None where it does not in time, and is killed."""
    descriptor = os.pidfd_open(child)
    try:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline_s - time.monotonic()))
    finally:
        os.close(descriptor)
    if not ready:
        os.killpg(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status) if ready else None


def preload() -> None:
    """Import what the forked processes need, once."""
    os.environ["GGML_NO_BACKTRACE"] = "1"
    import corral.__main__
    import corral.engine.local.llama.backend
    import corral.engine.local.prompts.writer
    import corral.settings  # noqa: F401


# Many


@dataclass(frozen=True)
class Case:
    """One run of one program on one file; `name` says what is wrong with the file."""

    name: str
    program: str
    outcome: Outcome


Files = Sequence[tuple[str, Callable[[], bytes]]]
"""Names, and how the bytes of each are made."""


def run_all(files: Files, *, jobs: int, limit_s: float = LIMIT_S) -> Iterator[Case]:
    """Run both programs on every file, in `jobs` processes that fork one for each run.

    Raises ChildProcessError where one of those fails: then not every file was tried.
    """
    preload()
    results: queue.SimpleQueue[Case | None] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        workers = [_worker(files[job::jobs], Path(folder, f"{job}.gguf"), limit_s) for job in range(jobs)]
        for _, pipe in workers:  # threads begin only now: nothing is forked any more
            pool.submit(_forward, pipe, results)
        left = jobs
        while left:
            if (case := results.get()) is None:
                left -= 1
            else:
                yield case
    if any(os.waitpid(process, 0)[1] != 0 for process, _ in workers):
        raise ChildProcessError("a process that tries files has failed")


def _forward(pipe: int, results: "queue.SimpleQueue[Case | None]") -> None:
    try:
        with open(pipe, "rb") as cases:
            while True:
                results.put(pickle.load(cases))
    except EOFError:
        results.put(None)


def _worker(files: Files, path: Path, limit_s: float) -> tuple[int, int]:
    """Fork a process for these files; its id, and the pipe that its cases come out of, pickled."""
    reader, writer = os.pipe()
    if (process := os.fork()) != 0:
        os.close(writer)
        return process, reader
    code = 1
    try:
        with open(writer, "wb", buffering=0) as results:
            for name, make in files:
                path.write_bytes(make())
                described = run(describe, path, limit_s)
                results.write(pickle.dumps(Case(name, "corral model", described)))
                if described.kind == "well" or "template does not compile" in described.stderr:
                    loaded = run(load_and_decode, path, limit_s)
                    results.write(pickle.dumps(Case(name, "load and decode", loaded)))
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise
    finally:
        os._exit(code)


def mutated(seed: int) -> bytes:
    """The file of a seed."""
    return mutant(seed)[1]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1, help="of the first file; the others follow it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, help="folder for the files that something is wrong with")
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    kinds: dict[str, Counter[str]] = {"corral model": Counter(), "load and decode": Counter()}
    slowest_s = dict.fromkeys(kinds, 0.0)
    for case in run_all([(str(seed), partial(mutated, seed)) for seed in seeds], jobs=arguments.jobs):
        kinds[case.program][case.outcome.kind] += 1
        slowest_s[case.program] = max(slowest_s[case.program], case.outcome.seconds)
        if not case.outcome.is_right:
            names, raw = mutant(int(case.name))
            print(
                f"seed {case.name} ({names}): {case.program}: {case.outcome.kind}\n{case.outcome.stderr}",
                flush=True,
            )
            if arguments.keep:
                arguments.keep.mkdir(parents=True, exist_ok=True)
                (arguments.keep / f"{case.name}.gguf").write_bytes(raw)
    for program, found in kinds.items():
        print(
            f"{program}: {found.total()} files: {found['well']} well, {found['refused']} refused in a line, "
            f"{found['abort']} aborts, {found['traceback']} tracebacks, {found['hang']} hangs, "
            f"{found['unclear']} unclear, slowest {slowest_s[program]:.1f} s"
        )
    return int(any(set(found) - RIGHT for found in kinds.values()))


if __name__ == "__main__":
    sys.exit(main())
