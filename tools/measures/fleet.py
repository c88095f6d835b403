"""corral in front of engines elsewhere: what the hop costs, what two replicas give, what a death costs, and
how long real engines go on for clients that have left.

The engines of the first three wait instead of computing (servers/waiting.py), so that what is measured is
corral. The last two need real ones, which --peer-cmd starts, such as a llama-server of two slots. What these
do for the gone is measured behind another router too, where --router-cmd starts one.
"""

import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import trio

from tools.clients.connection import get_json
from tools.clients.habits import Habit, Leave
from tools.clients.http1 import chat
from tools.clients.prompts import PromptSource
from tools.clients.sse import Answer
from tools.clients.target import Chat, Target
from tools.measures.bed import Bed, dot
from tools.measures.cost import own_of
from tools.measures.http_round import HttpRound, http_round
from tools.measures.plan import Plan
from tools.servers.process import subprocess_of
from tools.servers.server import DEFAULT_COMMAND, Server, serve, served_model
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, middle, number

WAITING = shlex.join([sys.executable, str(Path(__file__).parents[1] / "servers" / "waiting.py")])
STREAMS = 16
"""Side by side, for the cost of the hop."""
LONGER = 4
SLOTS = 4
"""Of each replica that waits, and 2 of each that is real."""
REAL_SLOTS = 2
FLAGS = ["--slots", str(SLOTS), "--gap-ms", "10", "--prefill-tok-s", "100000"]
"""Of a replica that waits."""
PROBE_S = 1.0
WORKERS = 6
"""Clients that ask one after the other, while a replica dies."""
LEAVING = 6
"""Clients that leave together: two are served, and four wait in somebody's queue."""
PREFILL_WORDS = 500
CONVERSATIONS = 6
TURNS = 3
PHASES = ("prefill", "decode", "whole")
TALKING_S = 1.5
QUIET_S = 1.0
"""So long nothing is computed any more, until that is believed."""
LIMIT_S = 180.0
HOP_US = 150.0
"""What a token may cost the process in front."""


class FleetRow(msgspec.Struct, frozen=True):
    """One figure: through corral, and without it or without its second replica; perhaps through a router."""

    what: str
    unit: str
    fleet: float | None
    other: float | None
    other_is: str
    router: float | None = None


async def fleet(bed: Bed, plan: Plan) -> Sheet:
    """All of it; the real engines only where a command for them is given."""
    broken: list[str] = []
    rows = [await _hop(bed, plan, broken), await _two(bed, plan, broken)]
    for number_of_signal in (signal.SIGKILL, signal.SIGSTOP):
        rows += await _death(bed, plan, number_of_signal)
    if bed.peer_command is not None:
        for phase in PHASES:
            rows.append(await _residue(bed, plan, phase))
        rows.append(await _affinity(bed, broken))
    lost = [row.fleet for row in rows if row.what.startswith("lost before")]
    return Sheet(
        name="fleet",
        columns=["", "unit", "fleet", "other", "other is", "router"],
        cells=[
            [
                row.what,
                row.unit,
                *map(_two_digits, (row.fleet, row.other)),
                row.other_is,
                _two_digits(row.router),
            ]
            for row in rows
        ],
        rows=rows,
        goals=[
            Goal("the hop's cost of a token in us", HOP_US, rows[0].fleet, True),
            Goal("requests lost before their first byte", 0, sum(value or 0 for value in lost), True),
        ],
        definitions=f"""\
hop: CPU of the process in front / tokens, {STREAMS} streams through it, long answers against short; other:
  of the request itself, in us. Engines wait instead of computing.
two replicas: tokens/s of {2 * SLOTS} streams of a token each 10 ms, two replicas of {SLOTS} slots in front
  of one.
killed, stopped: {WORKERS} clients ask one after the other; one of two replicas is killed, or stopped
  (SIGSTOP), and comes back. Lost before: no byte of an answer. Lost after: some. Given up, back: from the
  signal until /status says so; a silent replica is looked at after {PROBE_S:g} s, for as long.
residual: {LEAVING} clients of a real engine with {REAL_SLOTS} slots leave together, two in the named phase
  and the others in line; whole: of clients that do not stream, {TALKING_S:g} s after they were served.
  Seconds of slots that the engine is busy after that, by its /slots; other: asked directly; router: another
  one in front of it, given by --router-cmd.
affinity: tokens of {CONVERSATIONS} conversations of {TURNS} turns on two real engines that are found in
  their caches; other: the engines asked in turns.""",
        broken=broken,
    )


def _two_digits(value: float | None) -> str:
    return number(value, 2)


@asynccontextmanager
async def _waiting() -> AsyncIterator[Server]:
    """One engine that waits."""
    async with serve(f"{WAITING} --port {{port}}", FLAGS) as server:
        yield server


@asynccontextmanager
async def _front(bed: Bed, upstreams: Sequence[Target], *flags: str) -> AsyncIterator[Server]:
    """corral in front of these."""
    urls = ",".join(f"http://{upstream.host}:{upstream.port}" for upstream in upstreams)
    async with serve(DEFAULT_COMMAND, ["--upstream", urls, *flags, *bed.flags]) as server:
        yield server


async def _hop(bed: Bed, plan: Plan, broken: list[str]) -> FleetRow:
    """CPU of a token in the process in front."""
    prompts = PromptSource()
    rounds: dict[int, list[HttpRound]] = {1: [], LONGER: []}
    flags = ["--slots", str(STREAMS), "--gap-ms", "5", "--prefill-tok-s", "100000"]
    async with serve(f"{WAITING} --port {{port}}", flags) as engine, _front(bed, [engine.target]) as front:
        for repetition in range(plan.repeats):
            for times in sorted(rounds, reverse=bool(repetition % 2)):
                asked = prompts.take(STREAMS)
                done = await http_round(front.target, asked, times * plan.output_tokens, pid=front.pid)
                rounds[times].append(done)
                broken += done.broken
                dot()
    own = own_of(rounds[1], rounds[LONGER])
    return FleetRow("hop: a token", "us", own.loop_us, own.request_loop_us, "a request")


async def _two(bed: Bed, plan: Plan, broken: list[str]) -> FleetRow:
    """Tokens per second of two replicas, and of one."""
    prompts = PromptSource()
    ratios: dict[int, list[float]] = {1: [], 2: []}
    async with _waiting() as one, _waiting() as two:
        for count in (1, 2):
            async with _front(bed, [one.target, two.target][:count]) as front:
                for _ in range(plan.repeats):
                    done = await http_round(
                        front.target, prompts.take(2 * SLOTS), plan.output_tokens, pid=None
                    )
                    ratios[count].append(done.tokens_s)
                    broken += done.broken
                    dot()
    return FleetRow("two replicas", "tok/s", middle(ratios[2]), middle(ratios[1]), "one replica")


class _Replica(msgspec.Struct):
    name: str
    state: str


class _Status(msgspec.Struct):
    replicas: list[_Replica] = []


async def _state(front: Target, replica: Target) -> str:
    _, body = await get_json(front, "/status/json")
    states = {each.name: each.state for each in msgspec.json.decode(body, type=_Status).replicas}
    return states.get(f"{replica.host}:{replica.port}", "")


async def _until(front: Target, replica: Target, holds: Callable[[str], bool]) -> float | None:
    """Seconds until its state is so; None if that takes too long."""
    began_s = trio.current_time()
    with trio.move_on_after(LIMIT_S):
        while not holds(await _state(front, replica)):  # noqa: ASYNC110 - another process
            await trio.sleep(0.02)
        return trio.current_time() - began_s
    return None


async def _death(bed: Bed, plan: Plan, how: signal.Signals) -> list[FleetRow]:
    """One of two replicas goes while clients ask, and comes back."""
    name = "killed" if how is signal.SIGKILL else "stopped"
    answers: list[Answer] = []
    prompts = PromptSource()

    async def work(front: Target) -> None:
        while True:
            [prompt] = prompts.take(1)
            answers.append(await chat(front, Chat(prompt, plan.output_tokens, stream=True)))

    async with AsyncExitStack() as stack:
        staying = await stack.enter_async_context(_waiting())
        victim = await stack.enter_async_context(_waiting())
        flags = ("--upstream-probe-s", str(PROBE_S))
        front = await stack.enter_async_context(_front(bed, [victim.target, staying.target], *flags))
        async with trio.open_nursery() as nursery:
            for _ in range(WORKERS):
                nursery.start_soon(work, front.target)
            await trio.sleep(plan.window_s / 4)
            os.kill(victim.pid, how)
            given_up_s = await _until(front.target, victim.target, lambda state: state != "in service")
            dot()
            if how is signal.SIGSTOP:
                os.kill(victim.pid, signal.SIGCONT)
            else:
                await victim.process.wait()
                command = [*shlex.split(WAITING), "--port", str(victim.target.port), *FLAGS]
                await stack.enter_async_context(subprocess_of(command))
            back_s = await _until(front.target, victim.target, lambda state: state == "in service")
            await trio.sleep(plan.window_s / 4)
            nursery.cancel_scope.cancel()
    failed = [answer for answer in answers if not answer.is_whole]
    before = sum(1 for answer in failed if not answer.content_s)
    asked = f"of {len(answers)} asked"
    return [
        FleetRow(f"lost before the first byte, {name}", "requests", before, len(answers), asked),
        FleetRow(f"lost after it, {name}", "requests", len(failed) - before, SLOTS, "its slots"),
        FleetRow(f"given up, {name}; and back", "s", given_up_s, back_s, "back, from its return"),
    ]


@asynccontextmanager
async def _real(
    bed: Bed, *, is_fleet: bool, count: int = 1, router: str | None = None
) -> AsyncIterator[tuple[Target, list[Target]]]:
    """Real engines, and where clients ask: corral or a router in front of them, or the first itself."""
    command = (bed.peer_command or "").replace("{slots}", str(REAL_SLOTS)).replace("{ctx_tokens}", "4096")
    async with AsyncExitStack() as stack:
        engines = [(await stack.enter_async_context(serve(command))).target for _ in range(count)]
        if router is not None:
            urls = " ".join(f"http://{engine.host}:{engine.port}" for engine in engines)
            before = await stack.enter_async_context(serve(router.replace("{urls}", urls)))
            yield await _named(before), engines
            return
        if not is_fleet:
            yield engines[0], engines
            return
        front = await stack.enter_async_context(_front(bed, engines))
        yield front.target, engines


async def _named(router: Server) -> Target:
    """Where a router listens, by its model's name, which it has once it knows its engine."""
    with trio.fail_after(LIMIT_S):
        while (name := await served_model(router.target)) == "default":  # noqa: ASYNC110
            await trio.sleep(0.1)  # another process
    return replace(router.target, model=name)


async def _busy(engine: Target) -> int:
    status, body = await get_json(engine, "/slots")
    slots: Any = msgspec.json.decode(body) if status == 200 else []
    return sum(bool(slot.get("is_processing")) for slot in slots)


async def _residue(bed: Bed, plan: Plan, phase: str) -> FleetRow:
    """Seconds of slots that are computed after all clients have left, in the middle of some times."""
    prompts = PromptSource()
    words = PREFILL_WORDS if phase == "prefill" else 0

    async def seconds(*, is_fleet: bool, router: str | None = None) -> float | None:
        found = []
        async with _real(bed, is_fleet=is_fleet, router=router) as (target, [engine]):
            for _ in range(plan.repeats):
                found.append(await _residual_s(target, engine, phase, prompts.take(LEAVING, words=words)))
                dot()
        return middle(found)

    through = None
    if bed.router_command is not None:
        through = await seconds(is_fleet=False, router=bed.router_command)
    fleet_s, alone_s = await seconds(is_fleet=True), await seconds(is_fleet=False)
    return FleetRow(f"residual, {phase}", "slot s", fleet_s, alone_s, "the engine alone", through)


async def _residual_s(
    target: Target, engine: Target, phase: str, prompts: Sequence[list[dict[str, str]]]
) -> float:
    talking = trio.Event()

    async def one(prompt: list[dict[str, str]], scope: trio.CancelScope) -> None:
        habit = Habit(leave=Leave.RST)
        await chat(
            target,
            Chat(prompt, 1500, temperature=0.0, stream=phase != "whole", ignore_eos=True),
            habit,
            leaving=scope,
            watch=lambda answer: talking.set() if len(answer.content_s) >= 4 else None,
        )

    scopes = [trio.CancelScope() for _ in prompts]
    async with trio.open_nursery() as nursery:
        for prompt, scope in zip(prompts, scopes, strict=True):
            nursery.start_soon(one, prompt, scope)
        if phase == "decode":
            await talking.wait()
        else:
            while not await _busy(engine):  # noqa: ASYNC110 - another process
                await trio.sleep(0.01)
        if phase == "whole":
            await trio.sleep(TALKING_S)
        for scope in scopes:
            scope.cancel()
    return await _busy_s(engine)


async def _busy_s(engine: Target) -> float:
    """Slots times seconds that it is busy from now on, until it was quiet for a while."""
    total_s, last_s = 0.0, trio.current_time()
    quiet_since_s = last_s
    with trio.move_on_after(LIMIT_S):
        while last_s - quiet_since_s < QUIET_S:
            busy = await _busy(engine)  # llama-server answers between two steps: then it was busy until now
            now_s = trio.current_time()
            if busy or now_s - last_s > 0.2:
                total_s += max(1, busy) * (now_s - last_s)
                quiet_since_s = now_s
            last_s = now_s
            await trio.sleep(0.02)
    return total_s


async def _affinity(bed: Bed, broken: list[str]) -> FleetRow:
    """The share of prompts' tokens that is found in a cache, in percent."""
    shares = []
    for is_fleet in (True, False):
        async with _real(bed, is_fleet=is_fleet, count=2) as (target, engines):
            shares.append(await _cached_share([target] if is_fleet else engines, broken))
            dot()
    return FleetRow("affinity: prompt tokens from the cache", "%", shares[0], shares[1], "in turns")


async def _cached_share(targets: Sequence[Target], broken: list[str]) -> float:
    conversations = PromptSource().take(CONVERSATIONS, words=80)
    asked = prompt_tokens = cached_tokens = 0
    for _ in range(TURNS):
        for conversation in conversations:
            answer = await chat(
                targets[asked % len(targets)], Chat(list(conversation), 8, temperature=0.0, stream=True)
            )
            asked += 1
            if not answer.is_whole or answer.usage is None:
                broken.append(answer.fate)
                continue
            prompt_tokens += answer.usage.prompt_tokens
            cached_tokens += answer.usage.cached_tokens
            conversation += [
                {"role": "assistant", "content": answer.text},
                {"role": "user", "content": "And then?"},
            ]
        conversations.append(conversations.pop(0))  # in turns, each comes to another engine than before
    return 100 * cached_tokens / max(1, prompt_tokens)
