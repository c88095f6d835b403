"""Prompts in processes of their own, with a template and a tokenizer that do harm when they are asked to."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from corral.engine.local.prompts.pool import PromptProcesses
from corral.errors import ContextExceeded, InvalidRequest, StartupError
from corral.request import GenerationRequest, Message, RawPrompt, Tool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

TEMPLATE = """
{%- set said = messages[0].content -%}
{%- if said == 'loop' -%}
  {%- for i in range(99999) -%}{%- for j in range(99999) -%}{%- endfor -%}{%- endfor -%}
{%- elif said == 'grow' -%}
  {%- set ns = namespace(text='x' * 9000000) -%}
  {%- for i in range(9) -%}{%- set ns.text = ns.text ~ ns.text -%}{%- endfor -%}
{%- endif -%}
{{ said }}<|im_end|>
"""

CHILD = """
import ctypes, sys, time
from corral.engine.local.backend import ChatFormat
from corral.engine.local.prompts.child import Child
from corral.engine.local.prompts.writer import PromptWriter
from corral.engine.local.scripted import ByteVocabulary

class Vocabulary(ByteVocabulary):
    def tokenize(self, text, *, parse_control, continues=False):
        if "crash" in text:
            ctypes.string_at(0)
        if "impossible" in text:
            raise ValueError("no such text")
        if "slow" in text:
            time.sleep(0.005)
        return super().tokenize(text, parse_control=parse_control, continues=continues)

def writer():
    if sys.argv[1] == "never ready":
        time.sleep(60)
    return PromptWriter(ChatFormat(sys.argv[1], "", ""), Vocabulary())

Child(writer, 60.0).run()
"""


def command(template: str = TEMPLATE) -> list[str]:
    return [sys.executable, "-P", "-c", CHILD, template]


def request(text: str) -> GenerationRequest:
    return GenerationRequest(messages=(Message("user", text),))


@asynccontextmanager
async def running(
    template: str = TEMPLATE, *, processes: int = 1, deadline_s: float = 5.0, small_bytes: int = 1000
) -> AsyncIterator[PromptProcesses]:
    prompts = PromptProcesses(
        command(template), processes=processes, deadline_s=deadline_s, small_bytes=small_bytes
    )
    try:
        await prompts.ready()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(prompts.run)
            yield prompts
            nursery.cancel_scope.cancel()
    finally:
        prompts.close()


async def written(prompts: PromptProcesses, text: str, client: str = "a", limit_tokens: int = 10**7) -> str:
    prompt = await prompts.prompt(request(text), client=client, limit_tokens=limit_tokens)
    return bytes(token for token in prompt.tokens if token < 256).decode()


async def process_of(prompts: PromptProcesses) -> int:
    """The id of the only process there is."""
    (pid,) = children(os.getpid())
    assert await written(prompts, "x") == "x"
    return pid


def children(parent: int) -> list[int]:
    """Processes that write prompts and were started by `parent`; not those that have ended."""
    lists = Path(f"/proc/{parent}/task").glob("*/children")
    pids = [int(pid) for listed in lists for pid in listed.read_text().split()]
    return [pid for pid in pids if b"Child(writer" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def test_texts_to_be_embedded_are_tokenized_together() -> None:
    async with running() as prompts:
        texts = ["one", "<|im_end|>", "x" * 3000]
        inputs = await prompts.inputs(texts, client="a", limit_tokens=100_000)
        assert [bytes(list(tokens)).decode() for tokens in inputs] == texts


async def test_who_leaves_while_texts_are_tokenized_is_not_waited_for() -> None:
    async with running(deadline_s=30.0) as prompts:
        pid = await process_of(prompts)
        with trio.move_on_after(0.2) as scope:
            await prompts.inputs(["slow"] * 5000, client="a", limit_tokens=100_000)
        assert scope.cancelled_caught
        assert await written(prompts, "next") == "next"
        assert children(os.getpid()) == [pid], "it stopped, and goes on with the next"


async def test_a_text_that_ends_the_process_is_refused_as_an_input() -> None:
    async with running() as prompts:
        with pytest.raises(InvalidRequest, match="reading these inputs ends the process") as caught:
            await prompts.inputs(["fine", "crash"], client="a", limit_tokens=100_000)
        assert caught.value.param == "input"
        [tokens] = await prompts.inputs(["fine"], client="a", limit_tokens=100_000)
        assert bytes(list(tokens)) == b"fine"


async def test_prompts_are_written() -> None:
    async with running(processes=2) as prompts:
        texts: list[str] = []

        async def write(number: int) -> None:
            texts.append(await written(prompts, f"text {number} <|im_end|>", client=str(number % 3)))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(write, number)
        assert sorted(texts) == sorted(f"text {number} <|im_end|>" for number in range(20))


async def test_texts_are_rendered_and_tokenized_there_too() -> None:
    async with running() as prompts:
        assert await prompts.text(request("hi"), client="a") == "hi<|im_end|>"
        for parses, tokens in ((True, [104, 257]), (False, list(b"h<|im_end|>"))):
            told = await prompts.tokens("h<|im_end|>", client="a", adds_special=True, parses_control=parses)
            assert told.tolist() == tokens
        raw = GenerationRequest(prompt=RawPrompt("h<|im_end|>"))
        prompt = await prompts.prompt(raw, client="a", limit_tokens=100)
        assert prompt.tokens.tolist() == list(b"h<|im_end|>")


async def test_what_is_at_fault_is_called_by_the_requests_own_name() -> None:
    async with running() as prompts:
        long = GenerationRequest(prompt=RawPrompt("x" * 20))
        with pytest.raises(ContextExceeded) as too_long:
            await prompts.prompt(long, client="a", limit_tokens=10)
        assert too_long.value.param == "prompt"
        with pytest.raises(InvalidRequest) as crashed:
            await prompts.tokens("crash", client="a", adds_special=False, parses_control=False)
        assert crashed.value.param == "content"


async def test_a_prompt_that_is_too_long_comes_back_as_its_length() -> None:
    async with running() as prompts:
        with pytest.raises(ContextExceeded) as exceeded:
            await written(prompts, "x" * 50, limit_tokens=50)
        assert (exceeded.value.prompt_tokens, exceeded.value.limit_tokens) == (51, 50)


async def test_what_the_template_refuses_is_the_requests_fault() -> None:
    async with running("{{ raise_exception('not me') }}") as prompts:
        with pytest.raises(InvalidRequest, match="refuses this conversation: not me"):
            await written(prompts, "x")


async def test_half_of_a_surrogate_pair_is_the_requests_fault() -> None:
    async with running() as prompts:
        with pytest.raises(InvalidRequest, match="surrogate"):
            await written(prompts, "\ud800")
        assert await written(prompts, "x") == "x"


async def test_a_tool_that_cannot_be_read_is_refused_by_its_name_and_the_process_stays() -> None:
    async with running() as prompts:
        pid = await process_of(prompts)
        tool = Tool("wide", "", msgspec.Raw(b'{"x":' + b"1" * 5000 + b"}"))
        with pytest.raises(InvalidRequest, match="'wide'") as refused:
            await prompts.prompt(replace(request("x"), tools=(tool,)), client="a", limit_tokens=10**7)
        assert refused.value.param == "tools"
        assert await process_of(prompts) == pid


async def test_what_a_request_makes_impossible_to_write_is_its_fault_and_the_process_stays() -> None:
    async with running() as prompts:
        pid = await process_of(prompts)
        with pytest.raises(InvalidRequest, match="cannot be written: no such text"):
            await written(prompts, "impossible")
        assert await process_of(prompts) == pid


async def test_a_template_that_loops_is_ended_and_others_go_on_meanwhile() -> None:
    async with running(processes=2, deadline_s=0.5) as prompts:
        async with trio.open_nursery() as nursery:

            async def loop() -> None:
                with pytest.raises(InvalidRequest, match="takes longer than"):
                    await written(prompts, "loop", client="looping")

            nursery.start_soon(loop)
            for _ in range(20):
                assert await written(prompts, "x", client="other") == "x"
        assert await written(prompts, "y") == "y"


async def test_a_tokenizer_that_crashes_takes_a_process_along_and_no_more() -> None:
    async with running() as prompts:
        with pytest.raises(InvalidRequest, match="SIGSEGV"):
            await written(prompts, "crash")
        assert await written(prompts, "x") == "x"


async def test_a_template_that_takes_all_memory_is_refused() -> None:
    async with running() as prompts:
        pid = await process_of(prompts)
        with pytest.raises(InvalidRequest, match="more memory"):
            await written(prompts, "grow")
        assert await process_of(prompts) == pid


async def test_a_process_that_was_killed_is_replaced_and_nobody_is_told() -> None:
    async with running() as prompts:
        os.kill(await process_of(prompts), signal.SIGKILL)
        assert await written(prompts, "x") == "x"


async def test_a_client_that_leaves_is_gone_at_once_and_what_loops_for_it_soon_after() -> None:
    async with running(deadline_s=60.0) as prompts:
        await process_of(prompts)
        started = trio.current_time()
        with trio.move_on_after(0.2):
            await written(prompts, "loop")
        assert trio.current_time() - started < 0.5
        assert await written(prompts, "x") == "x"  # by the process that took the place


async def test_what_was_for_a_client_that_left_is_given_up_and_the_process_stays() -> None:
    async with running(deadline_s=60.0) as prompts:
        pid = await process_of(prompts)
        with trio.move_on_after(0.3):
            await written(prompts, "slow " * 500_000)  # three seconds of work
        started = trio.current_time()
        assert await written(prompts, "x") == "x"
        assert trio.current_time() - started < 1.0
        assert await process_of(prompts) == pid


async def test_clients_take_turns() -> None:
    async with running() as prompts:
        order: list[str] = []

        async def write(client: str) -> None:
            await written(prompts, "slow", client)
            order.append(client)

        async with trio.open_nursery() as nursery:
            for client in ("a", "a", "a", "a", "b"):
                nursery.start_soon(write, client)
                await trio.testing.wait_all_tasks_blocked()
        assert order.index("b") <= 2


@pytest.mark.parametrize(
    "large",
    [request("slow " * 100_000), GenerationRequest(messages=(Message("user", "loop"),) * 9)],
    ids=["much text", "many messages"],
)
async def test_a_small_prompt_does_not_wait_for_large_ones(large: GenerationRequest) -> None:
    async with running(processes=2, deadline_s=60.0) as prompts, trio.open_nursery() as nursery:
        for client in ("a", "b"):
            nursery.start_soon(partial(prompts.prompt, large, client=client, limit_tokens=10**7))
        await trio.testing.wait_all_tasks_blocked()
        assert await written(prompts, "x", client="c") == "x"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("template", "reason"),
    [("{% broken", "line 1: .*broken"), ("{{ x | no_such_filter }}", "no_such_filter")],
)
async def test_a_template_that_does_not_compile_is_told_at_the_start(template: str, reason: str) -> None:
    with pytest.raises(StartupError, match=reason) as fault:
        async with running(template):
            pass
    assert "\n" not in str(fault.value)


async def test_a_process_that_is_never_ready_is_told_at_the_start() -> None:
    prompts = PromptProcesses(command("never ready"), processes=1, start_s=0.3)
    with pytest.raises(StartupError, match="takes longer than"):
        await prompts.ready()
    prompts.close()
    assert children(os.getpid()) == []


async def test_a_command_that_cannot_be_run_is_told_at_the_start() -> None:
    with pytest.raises(StartupError, match="cannot start a process"):
        PromptProcesses(["/no/such/command"])


async def test_no_process_is_left_whatever_it_does() -> None:
    async with running(processes=2) as prompts:
        with trio.move_on_after(0.1):
            await written(prompts, "loop")
    assert children(os.getpid()) == []


PARENT = """
import sys, trio
from tests.engine.local.prompts.test_pool import running, written

async def main():
    async with running(processes=2, deadline_s=60.0) as prompts:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(written, prompts, "loop")
            await written(prompts, "x", "b")
            print("looping", flush=True)

trio.run(main)
"""


def test_processes_end_with_the_server_even_if_it_is_killed() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"looping\n"
        pids = children(server.pid)
        assert len(pids) == 2
        ended = [os.pidfd_open(pid) for pid in pids]
        server.kill()
    for fd in ended:
        assert wait_readable(fd, 10.0), "a process is left"
        os.close(fd)


def wait_readable(fd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))
