"""A round of streams over HTTP, all at once: how fast they came, and what they cost both sides."""

import time
from collections.abc import Sequence
from itertools import cycle

import msgspec
import trio

from tools.clients.apis import CHAT, Api
from tools.clients.http1 import chat
from tools.clients.sse import Answer
from tools.clients.target import Chat, Target
from tools.servers.footprint import ThreadTime, thread_times
from tools.sheets.summary import gaps

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
    target: Target,
    prompts: Sequence[list[dict[str, str]]],
    output_tokens: int,
    *,
    pid: int | None,
    apis: Sequence[Api] = (CHAT,),
) -> HttpRound:
    """All prompts at once, each a stream of its own on a connection of its own, read to their ends.

    They go round `apis`, each through the next.
    `wall_s` runs from before the first connects to after the last has ended. Cancel-safe.
    """
    answers: list[Answer] = []

    async def one(prompt: list[dict[str, str]], api: Api) -> None:
        request = Chat(prompt, output_tokens, temperature=0.0, stream=True)
        answers.append(await chat(target, request, api=api))

    before = thread_times(pid) if pid is not None else []
    client_before = time.process_time()
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for prompt, api in zip(prompts, cycle(apis), strict=False):
            nursery.start_soon(one, prompt, api)
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
        broken=[answer.fate for answer in answers if not answer.is_whole],
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
