"""Prompts written in processes of their own, from the side of the event loop.

What comes from a client and from a model file is run in a few child processes. A template that loops, a
tokenizer that overflows its stack or a text that takes all memory ends one of them, and not the server: the
request is refused, the process replaced, and the others go on meanwhile.

Clients take turns, one prompt each. Only the first process takes large ones, so that a small one never waits
for several of them. When a client leaves, its process is told, and stops within a millisecond or so; one that
has not stopped after GRACE_S is ended.
"""

import logging
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate

import trio

from corral.decoding.formats.learn import Learned
from corral.engine.local.prompts import bounds, wire
from corral.engine.local.prompts.contract import Prompt
from corral.engine.local.prompts.conversation import SURROGATE
from corral.engine.local.prompts.process import Died, PromptProcess
from corral.engine.local.prompts.turns import Turns
from corral.errors import CorralError, EngineFailed, InvalidRequest, StartupError, prompt_too_long
from corral.printable import one_line
from corral.request import GenerationRequest

logger = logging.getLogger("corral.prompts")

PROCESSES = 2
START_S = 60.0
"""Longest that a process may take to load its vocabulary and to try its template."""

DEADLINE_S = 10.0
"""Longest that writing one prompt may take."""

GRACE_S = 0.1
SMALL_BYTES = 256 * 2**10
_WRITING = "writing the prompt of this conversation"
MESSAGE_BYTES = 256
"""Of text, that takes as long as a message does beside its text: 0.07 ms."""


Outcome = Prompt | str | list["array[int]"]
"""What comes of a job: a prompt, a text, or the tokens of several texts."""


@dataclass(slots=True, eq=False)
class _Task:
    """Something that is wanted. `outcome` is there once it is `done`."""

    job: wire.Job
    client: str
    is_small: bool
    abandoned: trio.Event = field(default_factory=trio.Event)
    done: trio.Event = field(default_factory=trio.Event)
    outcome: Outcome | CorralError | None = None
    has_ended_one: bool = False

    @property
    def param(self) -> str:
        """What is at fault, if it cannot be done."""
        return wire.param_of(self.job)

    def finish(self, outcome: Outcome | CorralError) -> None:
        self.outcome = outcome
        self.done.set()


class PromptProcesses:
    """Some processes and the queue in front of them; see contract.Prompts."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        processes: int = PROCESSES,
        start_s: float = START_S,
        deadline_s: float = DEADLINE_S,
        small_bytes: int = SMALL_BYTES,
    ) -> None:
        """Start the processes. Blocks for some milliseconds; from any thread. Raises StartupError."""
        self._command = command
        self._start_s = start_s
        self._deadline_s = deadline_s
        self._small_bytes = small_bytes
        self._turns: Turns[_Task] = Turns()
        self._added = trio.lowlevel.ParkingLot()
        self._processes: list[PromptProcess] = []
        try:
            for _ in range(processes):
                self._processes.append(PromptProcess(command))
        except OSError as error:
            self.close()
            raise StartupError(f"cannot start a process to write prompts in: {error.strerror}") from None

    async def ready(self) -> Learned:
        """Wait until all can write. Raises StartupError if no prompt can be written with this model."""
        learned = [await self._get_ready(process) for process in self._processes]  # ready side by side
        return learned[0]

    async def run(self) -> None:
        """Own the processes until cancelled, and replace those that die."""
        async with trio.open_nursery() as nursery:
            for number, process in enumerate(self._processes):
                nursery.start_soon(self._serve, process, number == 0)
            self._processes = []

    async def prompt(self, request: GenerationRequest, *, client: str, limit_tokens: int) -> Prompt:
        """The prompt of a request, in the client's turn. Cancelling leaves at once; see the module."""
        job = wire.Write(request, limit_tokens)
        prompt = await self._done(job, client, _size_bytes(request))
        assert isinstance(prompt, Prompt)
        return prompt

    async def text(self, request: GenerationRequest, *, client: str) -> str:
        """As `prompt`, but the text."""
        text = await self._done(wire.Render(request), client, _size_bytes(request))
        assert isinstance(text, str)
        return text

    async def tokens(
        self, text: str, *, client: str, adds_special: bool, parses_control: bool
    ) -> "array[int]":
        """As `prompt`, of a text."""
        job = wire.Tokenize(text, adds_special, parses_control)
        prompt = await self._done(job, client, len(text))
        assert isinstance(prompt, Prompt)
        return prompt.tokens

    async def inputs(self, texts: Sequence[str], *, client: str, limit_tokens: int) -> "list[array[int]]":
        """As `prompt`, of texts to be embedded."""
        inputs = await self._done(wire.Inputs(tuple(texts), limit_tokens), client, sum(map(len, texts)))
        assert isinstance(inputs, list)
        return inputs

    async def _done(self, job: wire.Job, client: str, size: int) -> Outcome:
        """What comes of a job, of about `size` bytes of text, in the client's turn."""
        task = _Task(job, client, size <= self._small_bytes)
        self._add(task)
        try:
            await task.done.wait()
        finally:
            self._turns.remove(client, task)
            task.abandoned.set()
        assert task.outcome is not None
        if isinstance(task.outcome, CorralError):
            raise task.outcome
        return task.outcome

    def close(self) -> None:
        """End the processes that `run` has not taken. Blocks for the milliseconds that it takes."""
        for process in self._processes:
            process.end_nowait()
        self._processes = []

    def _add(self, task: _Task) -> None:
        self._turns.add(task.client, task)
        self._added.unpark_all()

    async def _serve(self, process: PromptProcess | None, takes_large: bool) -> None:
        """Have one process after the other write the prompts whose turn it is."""
        try:
            while True:
                if process is None:
                    process = await self._replacement()
                task = await self._next(takes_large)
                if process is None:
                    process = await self._replacement()
                if process is None:
                    task.finish(EngineFailed("the process that writes prompts cannot be started again"))
                elif not await self._write(process, task):
                    await process.end()
                    process = None
        finally:
            if process is not None:
                process.end_nowait()

    async def _next(self, takes_large: bool) -> _Task:
        while True:
            task = self._turns.take(lambda task: takes_large or task.is_small)
            if task is not None:
                return task
            await self._added.park()

    async def _replacement(self) -> PromptProcess | None:
        process = None
        try:
            process = await trio.to_thread.run_sync(PromptProcess, self._command)
            await self._get_ready(process)
        except (StartupError, OSError) as error:
            logger.error("a process to write prompts in cannot be started: %s", error)
            process, failed = None, process
            if failed is not None:
                failed.end_nowait()
        except BaseException:
            if process is not None:
                process.end_nowait()
            raise
        return process

    async def _get_ready(self, process: PromptProcess) -> Learned:
        """Wait until it can write. Raises StartupError."""
        process.open()
        with trio.move_on_after(self._start_s):
            try:
                answer = await process.answer()
            except Died as death:
                raise StartupError(f"the process that writes prompts died of {death} at its start") from None
            if isinstance(answer, wire.Ready):
                logger.debug("process %d writes prompts, in %d MB", process.pid, answer.memory_bytes // 10**6)
                return answer.learned
            reason = answer.reason if isinstance(answer, wire.Unfit) else "it failed"
            if isinstance(answer, wire.Failed):
                logger.error("a process that writes prompts failed:\n%s", answer.traceback)
            raise StartupError(one_line(reason))
        raise StartupError(
            f"loading the vocabulary and rendering the chat template takes longer than {self._start_s:.0f} s"
        )

    async def _write(self, process: PromptProcess, task: _Task) -> bool:
        """Have a prompt written. False if the process cannot write another one."""
        try:
            if task.is_small:
                frame = wire.encode_job(task.job)
            else:
                frame = await trio.to_thread.run_sync(wire.encode_job, task.job)
        except UnicodeEncodeError:
            task.finish(InvalidRequest(SURROGATE, param=task.param))
            return True
        outcome: wire.Answer | Died | None = None
        with trio.move_on_after(self._deadline_s) as limit:
            async with trio.open_nursery() as nursery:
                try:
                    await process.send(frame)
                    nursery.start_soon(_stop_if_abandoned, task, process, limit)
                    outcome = await process.answer()
                except Died as death:
                    outcome = death
                nursery.cancel_scope.cancel()
        if outcome is None:
            if not task.abandoned.is_set():
                logger.warning("a prompt took longer than %.0f s; its process was ended", self._deadline_s)
            task.finish(_refusal(task, f"takes longer than {self._deadline_s:.0f} s"))
            return False
        if isinstance(outcome, Died):
            return self._mourn(outcome, task)
        match outcome:
            case wire.Written():
                tokens = array("i")
                tokens.frombytes(outcome.tokens)
                task.finish(Prompt(tokens, outcome.ending))
            case wire.WrittenInputs():
                task.finish(_split(outcome))
            case wire.Rendered():
                task.finish(outcome.text)
            case wire.TooLong():
                assert isinstance(task.job, wire.Write)
                task.finish(prompt_too_long(outcome.prompt_tokens, task.job.limit_tokens, param=task.param))
            case wire.Refused():
                task.finish(InvalidRequest(outcome.message, param=outcome.param))
            case wire.Failed():
                logger.error("a process that writes prompts failed:\n%s", outcome.traceback)
                task.finish(EngineFailed("the prompt could not be written; the server's log says more"))
                return False
            case _:  # stopped, and nobody waits for it
                task.finish(EngineFailed("the prompt was not written"))
        return True

    def _mourn(self, death: Died, task: _Task) -> bool:
        # It may have died of something else, such as a machine short of memory: the next one shows that.
        logger.warning("a process that writes prompts died of %s", death)
        if task.has_ended_one:
            task.finish(_refusal(task, f"ends the process that does it ({death})"))
        elif not task.abandoned.is_set():
            task.has_ended_one = True
            self._add(task)
        return False


def _split(written: wire.WrittenInputs) -> "list[array[int]]":
    tokens = array("i")
    tokens.frombytes(written.tokens)
    ends = list(accumulate(written.lengths))
    return [tokens[end - length : end] for end, length in zip(ends, written.lengths, strict=True)]


def _size_bytes(request: GenerationRequest) -> int:
    return bounds.text_bytes(request) + MESSAGE_BYTES * len(request.messages)


def _refusal(task: _Task, what: str) -> InvalidRequest:
    about = "reading these inputs" if isinstance(task.job, wire.Inputs) else _WRITING
    return InvalidRequest(f"{about} {what}", param=task.param)


async def _stop_if_abandoned(task: _Task, process: PromptProcess, limit: trio.CancelScope) -> None:
    await task.abandoned.wait()
    limit.deadline = min(limit.deadline, trio.current_time() + GRACE_S)
    with suppress(Died):
        await process.send(wire.frame(wire.STOP))
