"""What bench.py measures, a round at a time: streams over HTTP, and the same through the raw loop."""

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import trio

from figures import gaps
from loadclient import Chat, Target, chat
from prompts import chatml, messages, policy, tiny
from rawloop import RoundRequest, RoundResult
from serverproc import ThreadTime, subprocess_of, thread_times
from sse import Answer

ENGINE_THREAD = "corral-engine"


class HttpRound(msgspec.Struct, frozen=True):
    """One round over HTTP. CPU seconds are None for a server that is not ours to look into.

    `loop_cpu_s` is the main thread's, `engine_cpu_s` that of the engine's thread and those it started
    (llama.cpp's helpers inherit its name), `other_cpu_s` that of the rest: rendering and tokenizing.
    """

    streams: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    wall_s: float
    ttft_s: list[float]
    gap_s: list[float]
    loop_cpu_s: float | None
    engine_cpu_s: float | None
    other_cpu_s: float | None
    client_cpu_s: float
    broken: list[str]

    @property
    def tokens_s(self) -> float:
        return self.output_tokens / self.wall_s


async def http_round(
    target: Target, prompts: Sequence[list[dict[str, str]]], output_tokens: int, *, pid: int | None
) -> HttpRound:
    """All prompts at once, each a stream of its own on a connection of its own, read to their ends.

    `wall_s` runs from before the first connects to after the last has ended. Cancel-safe.
    """
    answers: list[Answer] = []

    async def one(prompt: list[dict[str, str]]) -> None:
        request = Chat(prompt, output_tokens, temperature=0.0, stream=True)
        answers.append(await chat(target, request))

    before = thread_times(pid) if pid is not None else []
    client_before = time.process_time()
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for prompt in prompts:
            nursery.start_soon(one, prompt)
    wall_s = trio.current_time() - started
    client_cpu_s = time.process_time() - client_before
    loop_cpu_s, engine_cpu_s, other_cpu_s = (
        _split(pid, before, thread_times(pid)) if pid is not None else (None, None, None)
    )
    return HttpRound(
        streams=len(prompts),
        prompt_tokens=sum(answer.usage.prompt_tokens for answer in answers if answer.usage),
        cached_tokens=sum(answer.usage.cached_tokens for answer in answers if answer.usage),
        output_tokens=sum(answer.completion_tokens for answer in answers),
        wall_s=wall_s,
        ttft_s=[answer.ttft_s for answer in answers if answer.ttft_s is not None],
        gap_s=[gap for answer in answers for gap in gaps(answer.content_s)],
        loop_cpu_s=loop_cpu_s,
        engine_cpu_s=engine_cpu_s,
        other_cpu_s=other_cpu_s,
        client_cpu_s=client_cpu_s,
        broken=[why(answer) for answer in answers if not answer.is_whole],
    )


def _split(pid: int, before: Sequence[ThreadTime], after: Sequence[ThreadTime]) -> tuple[float, float, float]:
    """CPU seconds of the main thread, of the engine's, and of the others, between two looks."""
    known = {thread.tid: thread.cpu_s for thread in before}
    loop_s = engine_s = other_s = 0.0
    for thread in after:
        spent_s = thread.cpu_s - known.get(thread.tid, 0.0)
        if thread.tid == pid:
            loop_s += spent_s
        elif thread.name == ENGINE_THREAD:
            engine_s += spent_s
        else:
            other_s += spent_s
    return loop_s, engine_s, other_s


def why(answer: Answer) -> str:
    """What was wrong with an answer, in a line."""
    return f"{answer.ending} {answer.status} {answer.error} {answer.violations}"


async def ask(target: Target, prompt: list[dict[str, str]], broken: list[str]) -> Answer:
    """One streamed token of an answer; says in `broken` if it was not whole, or had no usage."""
    answer = await chat(target, Chat(prompt, 1, temperature=0.0, stream=True))
    if not answer.is_whole or answer.usage is None:
        broken.append(why(answer))
    return answer


def dot() -> None:
    """Show that something goes on."""
    print(".", end="", file=sys.stderr, flush=True)


class Watch:
    """Says when each of `clients` streams has had `deltas` deltas with text. Give it to `chat` as `watch`.

    `ready` is also set when one of them is over before that, which `over` tells it: nobody waits in vain.
    """

    def __init__(self, clients: int, deltas: int) -> None:
        self.ready = trio.Event()
        self._clients = clients
        self._deltas = deltas
        self._arrived: set[int] = set()

    def __call__(self, answer: Answer) -> None:
        if len(answer.content_s) >= self._deltas and not self.ready.is_set():
            self._arrived.add(id(answer))  # each lives as long as its client, so no id comes twice
            if len(self._arrived) == self._clients:
                self.ready.set()

    def over(self) -> None:
        """One of them is over."""
        self.ready.set()


class LineProcess:
    """A process that says a line for each line that it is told."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._buffer = b""

    async def ask(self, line: bytes) -> bytes:
        """Its answer to a line. Not cancel-safe: the answer to a cancelled one would be read by the next."""
        await self._stdin.send_all(line + b"\n")
        return await self.line()

    async def line(self) -> bytes:
        """One line of its stdout. Raises RuntimeError when it ended."""
        while (end := self._buffer.find(b"\n")) < 0:
            data = await self._stdout.receive_some()
            if not data:
                raise RuntimeError("the process ended")
            self._buffer += data
        line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        return line


class RawProcess(LineProcess):
    """The raw loop in its own process; `round` asks it for one round."""

    async def round(self, prompts: Sequence[list[dict[str, str]]], output_tokens: int) -> RoundResult:
        """The same prompts, rendered by ChatML, through the loop. Not cancel-safe."""
        request = RoundRequest([chatml(prompt) for prompt in prompts], output_tokens)
        return msgspec.json.decode(await self.ask(msgspec.json.encode(request)), type=RoundResult)


@asynccontextmanager
async def raw_process(
    model: Path, *, sequences: int, threads: int, spin_count: str
) -> AsyncIterator[RawProcess]:
    """Start the raw loop and wait until its model is loaded; terminate it at the end."""
    command = [sys.executable, str(Path(__file__).with_name("rawloop.py")), "--model", str(model)]
    command += ["--sequences", str(sequences), "--threads", str(threads)]
    env = {"GOMP_SPINCOUNT": spin_count, **os.environ}
    async with subprocess_of(command, env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        raw = RawProcess(process)
        await raw.line()
        yield raw


class PromptSource:
    """Hands out prompts that were never asked before in this run, so that no round answers for another."""

    def __init__(self) -> None:
        self._next = 1_000_000 + int(time.time()) % 100_000 * 10  # always seven digits

    def take(self, count: int, *, words: int = 0) -> list[list[dict[str, str]]]:
        """`count` new conversations."""
        first = self._next
        self._next += count
        return [messages(number, words=words) for number in range(first, first + count)]

    def shared(self, count: int, *, words: int) -> list[list[dict[str, str]]]:
        """`count` new conversations with one new system prompt of `words` words."""
        return self._with_policies(count, [self._number()] * count, words)

    def apart(self, count: int, *, words: int) -> list[list[dict[str, str]]]:
        """As `shared`, but each has a system prompt of its own, of the same length."""
        return self._with_policies(count, [self._number() for _ in range(count)], words)

    def tiny(self) -> list[dict[str, str]]:
        """A new conversation of next to no tokens."""
        return tiny(self._number())

    def _with_policies(self, count: int, numbers: Sequence[int], words: int) -> list[list[dict[str, str]]]:
        asked = [conversation[-1] for conversation in self.take(count)]
        return [
            [{"role": "system", "content": policy(number, words=words)}, turn]
            for number, turn in zip(numbers, asked, strict=True)
        ]

    def _number(self) -> int:
        self._next += 1
        return self._next - 1
