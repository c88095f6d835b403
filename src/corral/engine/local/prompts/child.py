"""A process that writes prompts and may be ended at any moment: what runs in it.

It reads requests from its standard input, one at a time, and answers each on its standard output. Two
threads: one reads and hears when it shall stop, or that nobody is left (end of file: the process exits);
the other one writes, with a stack that is large whatever the limits of this machine.

A template can loop where no Python thread gets a turn any more. So while it writes, a timer of the operating
system's runs, which ends the process a little after the deadline at which the server would have ended it.
"""

import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

from corral.engine.local.prompts import wire
from corral.engine.local.prompts.writer import PromptWriter
from corral.errors import InvalidRequest, StartupError
from corral.printable import one_line
from corral.templates.environment import TemplateFault

MEMORY_BYTES = 2**30
"""What writing one prompt may take, beside what the process has once it is ready."""

START_S = 60.0
LATE_S = 1.0
STACK_BYTES = 64 * 2**20


class _Stopped(BaseException):
    """The client has gone. No Exception, or a template's rendering would be tried again for it."""


class Child:
    """The two threads, and what they say to each other."""

    def __init__(self, make_writer: Callable[[], PromptWriter], deadline_s: float) -> None:
        self._make_writer = make_writer
        self._deadline_s = deadline_s
        self._jobs: SimpleQueue[bytes] = SimpleQueue()
        self._shall_stop = False
        # Whatever is printed by mistake shall not be taken for an answer.
        self._answers = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)

    def run(self) -> None:
        """Read until the end of the input. Does not return."""
        threading.stack_size(STACK_BYTES)
        threading.Thread(target=self._write_all, daemon=True).start()
        while True:
            header = sys.stdin.buffer.read(wire.HEADER.size)
            if len(header) < wire.HEADER.size:
                os._exit(0)  # not sys.exit: the other thread may be in a loop
            kind, length = wire.HEADER.unpack(header)
            body = sys.stdin.buffer.read(length)
            self._shall_stop = kind == wire.STOP
            if kind == wire.WRITE:
                self._jobs.put(body)

    def _write_all(self) -> None:
        try:
            _end_after(START_S)
            writer = self._make_writer()
            _end_after(0)
            size_bytes = _bound_memory()
            self._answer(wire.Ready(size_bytes, writer.learned))
            while True:
                body = self._jobs.get()
                _end_after(self._deadline_s + LATE_S)
                answer = self._written(writer, wire.decode_job(body))
                _end_after(0)
                self._answer(answer)
        except StartupError as error:
            self._answer(wire.Unfit(str(error)))
        except TemplateFault as fault:
            self._answer(wire.Unfit(f"the model's chat template does not compile: {fault}"))
        except BaseException:  # noqa: ASYNC103 - a thread of its own, and the end of its process
            self._answer(wire.Failed(traceback.format_exc()))
        os._exit(1)

    def _written(self, writer: PromptWriter, job: wire.Job) -> wire.Answer:
        try:
            return self._done(writer, job)
        except _Stopped:
            return wire.Stopped()
        except InvalidRequest as error:
            return wire.Refused(error.message, error.param)
        except MemoryError:
            return wire.Refused(
                "writing this prompt takes more memory than there is for it", wire.param_of(job)
            )
        except (ValueError, OverflowError, RecursionError) as error:
            # Of what the request holds: they leave nothing half done here, and others need the process.
            return wire.Refused(f"this prompt cannot be written: {one_line(str(error))}", wire.param_of(job))

    def _done(self, writer: PromptWriter, job: wire.Job) -> wire.Answer:
        match job:
            case wire.Write(request, limit_tokens):
                prompt = writer.write(request, self._pause)
                if len(prompt.tokens) > limit_tokens:
                    return wire.TooLong(len(prompt.tokens))
                return wire.Written(prompt.tokens.tobytes(), prompt.ending)
            case wire.Render(request):
                return wire.Rendered(writer.text(request, self._pause))
            case wire.Tokenize(text, adds_special, parses_control):
                tokens = writer.tokens(
                    text, adds_special=adds_special, parses_control=parses_control, pause=self._pause
                )
                return wire.Written(tokens.tobytes(), "")

            case wire.Inputs(texts, limit_tokens):
                inputs = writer.inputs(texts, limit_tokens, self._pause)
                raw = b"".join(tokens.tobytes() for tokens in inputs)
                return wire.WrittenInputs(raw, tuple(map(len, inputs)))

    def _pause(self) -> None:
        if self._shall_stop:
            raise _Stopped

    def _answer(self, answer: wire.Answer) -> None:
        self._answers.write(wire.encode_answer(answer))
        self._answers.flush()


def _end_after(seconds: float) -> None:
    """Have the system end this process by then; 0: not any more."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _bound_memory() -> int:
    """Allow MEMORY_BYTES more than is in use. Returns what is in use, in bytes; 0 where that is not known."""
    if sys.platform != "linux":
        return 0
    pages = Path("/proc/self/statm").read_text().split()
    size_bytes, resident_bytes = (int(count) * resource.getpagesize() for count in pages[:2])
    resource.setrlimit(resource.RLIMIT_AS, (size_bytes + MEMORY_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # If the machine runs out of memory, it is this process that goes.
    Path("/proc/self/oom_score_adj").write_text("1000")
    return resident_bytes
