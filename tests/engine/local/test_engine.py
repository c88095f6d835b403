"""The trio side of the local engine: what it adds to the contract, and a thread that dies."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio
import trio.lowlevel
from tests.engine.tales import asking
from tests.engine.test_contract import Listener, started, submitted
from tests.harness import Gate

from corral.engine.local.backend import Chunk
from corral.engine.local.costs import StepTime
from corral.engine.local.engine import LocalEngine
from corral.engine.local.options import EngineOptions
from corral.engine.local.scripted import ScriptedBackend
from corral.errors import EngineFailed, InvalidRequest, StartupError
from corral.events import Failed, Sampled
from corral.request import Sampling


def engine_on(backend: ScriptedBackend) -> LocalEngine:
    return LocalEngine(backend, EngineOptions(slots=2))


async def test_cancelling_the_engine_ends_its_thread() -> None:
    steps: list[int] = []

    def count(chunks: Sequence[Chunk]) -> None:
        steps.append(len(chunks))

    engine = engine_on(ScriptedBackend(on_step=count))
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await submitted(engine, Listener(), 4000)
        while not steps:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    seen = len(steps)
    await trio.lowlevel.checkpoint()
    assert len(steps) == seen


async def test_what_the_last_step_said_is_told_although_nobody_runs_the_engine_any_more() -> None:
    gate = Gate()
    rows: list[int] = []

    def step(chunks: Sequence[Chunk]) -> None:
        gate(chunks)
        rows.append(sum(chunk.rows for chunk in chunks))

    engine = engine_on(ScriptedBackend(on_step=step))
    listener = Listener()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await submitted(engine, listener, 4000)
        await gate.wait_arrived()
        nursery.cancel_scope.cancel()
        gate.open()
    told = sum(event.tokens for event in listener.events_so_far if isinstance(event, Sampled))
    assert told == sum(rows) > 0


async def test_a_thread_that_dies_fails_every_task_and_refuses_new_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def die(chunks: Sequence[Chunk]) -> None:
        raise MemoryError("no more")

    engine = engine_on(ScriptedBackend(on_step=die))
    listener = Listener()
    async with started(engine):
        await submitted(engine, listener, 5)
        await listener.is_released.wait()
        [failed] = listener.endings
        assert isinstance(failed, Failed)
        assert "no more" not in failed.error.message
        assert engine.failure is failed.error
        with pytest.raises(EngineFailed):
            await submitted(engine, Listener(), 5)
    assert "MemoryError" in caplog.text


def test_a_bias_of_a_token_that_the_model_does_not_have_is_refused() -> None:
    engine = engine_on(ScriptedBackend())
    request = replace(asking("hello"), sampling=Sampling(logit_bias=((258, 1.0),)))
    with pytest.raises(InvalidRequest, match="token 258 is not one of the model's 258"):
        engine.check(request)


async def test_the_first_prompt_goes_by_what_was_timed_before_it() -> None:
    async def first_chunk(*times: StepTime) -> int:
        class Timed(ScriptedBackend):
            def warm_up(self) -> Sequence[StepTime]:
                return times

        backend, listener = Timed(), Listener()
        engine = engine_on(backend)
        async with started(engine):
            prepared = await engine.prepare(asking("x" * 600), client="me")
            engine.submit(prepared, 0, listener, max_tokens=1)
            await listener.is_released.wait()
        return len(backend.steps[0][0].tokens)

    is_quick = StepTime(256, is_prefill=True, elapsed_ms=2.0)
    assert await first_chunk(is_quick) > 2 * await first_chunk()


async def test_a_model_that_cannot_compute_a_token_ends_the_start() -> None:
    class Broken(ScriptedBackend):
        def warm_up(self) -> Sequence[StepTime]:
            raise StartupError("no token can be computed")

    with trio.fail_after(5), pytest.raises(StartupError, match="no token can be computed"):
        await engine_on(Broken()).run()
