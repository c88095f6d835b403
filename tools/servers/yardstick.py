"""The raw loop (rawloop.py, rawload.py, rawsteps.py) in a process of its own: no llama.cpp in this one."""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from tools.clients.prompts import chatml
from tools.servers.process import LineProcess, program

BATCH_TOKENS = 512


class RoundRequest(msgspec.Struct, frozen=True):
    """One line on stdin. Prompts are texts as a template leaves them: special tokens are parsed."""

    prompts: list[str]
    output_tokens: int
    chunk_tokens: int = BATCH_TOKENS


class RoundResult(msgspec.Struct, frozen=True):
    """One line on stdout. Times are wall-clock seconds; `cpu_s` is the whole process, all threads."""

    prompt_tokens: int
    output_tokens: int
    prefill_s: float
    decode_s: float
    llama_s: float
    cpu_s: float
    step_ms: list[float]


class LoadRequest(msgspec.Struct, frozen=True):
    """One line on stdin of rawload.py: prompts as above, tokens of their answers, after how many seconds each
    of their tries is given up (None: never), how many ask at a time."""

    prompts: list[str]
    output_tokens: list[int]
    tries_s: list[tuple[float | None, ...]]
    clients: int


class LoadResult(msgspec.Struct, frozen=True):
    """What came of it, one way; all times in seconds. `ttft_s` are in the order in which answers ended."""

    wall_s: float
    output_tokens: int
    ttft_s: list[float]
    longest_gap_s: float


class StepCosts(msgspec.Struct, frozen=True):
    """Milliseconds: least of several for steps, medians for the spin figures.

    `mixed_ms` maps "4+32" to (decode rows first in one batch, prefill rows first, two calls);
    `loop_reply_ms` and `contended_step_ms` are (median, p95).
    """

    decode_ms: dict[int, float]
    prefill_ms: dict[int, float]
    mixed_ms: dict[str, tuple[float, float, float]]
    helper_spin_ms: float
    paced_step_ms: float
    loop_reply_ms: tuple[float, float]
    loaded_step_ms: float
    contended_step_ms: tuple[float, float]


class Yardstick:
    """The running loop."""

    def __init__(self, lines: LineProcess) -> None:
        self._lines = lines

    async def round(self, prompts: Sequence[list[dict[str, str]]], output_tokens: int) -> RoundResult:
        """The same prompts, rendered by ChatML, through the loop. Not cancel-safe."""
        request = RoundRequest([chatml(prompt) for prompt in prompts], output_tokens)
        return msgspec.json.decode(await self._lines.ask(msgspec.json.encode(request)), type=RoundResult)


@asynccontextmanager
async def yardstick(
    model: Path, *, sequences: int, threads: int, spin_count: str
) -> AsyncIterator[Yardstick]:
    """Start the raw loop and wait until its model is loaded; it ends with the block.

    `model` is an absolute path: the process has another working directory.
    """
    arguments = ["--model", str(model), "--sequences", str(sequences), "--threads", str(threads)]
    env = {"GOMP_SPINCOUNT": spin_count, **os.environ}  # who set it in the environment means it
    async with program("tools.servers.rawloop", *arguments, env=env) as lines:
        yield Yardstick(lines)


class RawLoad:
    """The running loop that plays loads."""

    def __init__(self, lines: LineProcess) -> None:
        self._lines = lines

    async def play(
        self,
        prompts: Sequence[list[dict[str, str]]],
        output_tokens: Sequence[int],
        tries_s: Sequence[tuple[float | None, ...]],
        clients: int,
    ) -> LoadResult:
        """The load, each way that the loop knows; the quicker one counts. Not cancel-safe."""
        texts = [chatml(prompt) for prompt in prompts]
        request = LoadRequest(texts, list(output_tokens), list(tries_s), clients)
        results = msgspec.json.decode(
            await self._lines.ask(msgspec.json.encode(request)), type=list[LoadResult]
        )
        return max(results, key=lambda result: result.output_tokens / result.wall_s)


@asynccontextmanager
async def raw_load(
    model: Path, *, slots: int, threads: int, ctx_tokens: int, spin_count: str
) -> AsyncIterator[RawLoad]:
    """As `yardstick`, for loads."""
    sizes = {"--slots": slots, "--threads": threads, "--ctx-tokens": ctx_tokens}
    arguments = ["--model", str(model), *(part for name, size in sizes.items() for part in (name, str(size)))]
    env = {"GOMP_SPINCOUNT": spin_count, **os.environ}
    async with program("tools.servers.rawload", *arguments, env=env) as lines:
        yield RawLoad(lines)


async def step_costs(model: Path, *, threads: int, repeats: int, env: Mapping[str, str]) -> StepCosts:
    """What its steps cost, in a process with that environment; `model` is an absolute path.

    Cancelling ends the process. Raises ProcessEnded.
    """
    arguments = ["--model", str(model), "--threads", str(threads), "--repeats", str(repeats)]
    async with program("tools.servers.rawsteps", *arguments, env=env) as lines:
        return msgspec.json.decode(await lines.line(), type=StepCosts)
