"""The worker, turn by turn and without a thread, on the scripted backend."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
from tests.engine.local.drive import FixedPace, run_tasks

from corral.engine.contract import Waste
from corral.engine.local import scheduler
from corral.engine.local.backend import BackendLost, CacheShape, Chunk, SavedSequence
from corral.engine.local.drafts.model import DraftModel
from corral.engine.local.options import EngineOptions
from corral.engine.local.pace import Load
from corral.engine.local.planner import Planner
from corral.engine.local.scripted import ScriptedBackend, ScriptedCache, rambling, replying
from corral.engine.local.task import Delivery, Task
from corral.engine.local.worker import Worker
from corral.errors import EngineFailed
from corral.events import Completion, Event, Failed, Finished, Prefill, Sampled, Started, collect
from corral.request import Sampling

CONVERSATION = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


class Bench:
    """A worker and everything it has delivered, by task key."""

    def __init__(
        self,
        backend: ScriptedBackend,
        idle_tokens: int = 64,
        pace: FixedPace | None = None,
        draft_model: DraftModel | None = None,
        **options: Any,
    ) -> None:
        self.backend = backend
        self.worker = Worker(
            backend,
            EngineOptions(slots=backend.cache.shape.sequences, **options),
            deliver=self.take,
            draft_model=draft_model,
            pace=pace or FixedPace(idle_tokens),
        )
        self.events: dict[int, list[Event]] = {}
        self.released: list[int] = []
        self.work: dict[int, Waste] = {}
        self.told: list[Delivery] = []
        self._stops_after: set[int] = set()

    @property
    def computed_tokens(self) -> int:
        return sum(len(chunk.tokens) for step in self.backend.steps for chunk in step)

    def submit(self, key: int, prompt: Sequence[int] | str = CONVERSATION, **options: object) -> None:
        if isinstance(prompt, str):
            prompt = self.backend.model.vocabulary.tokenize(prompt, parse_control=True)
        task = Task(key, prompt, Sampling(), **{"max_tokens": 20, **options})  # type: ignore[arg-type]
        self.worker.submit_nowait(task)

    def turn(self) -> None:
        delivery = self.worker.run_once()
        assert delivery is not None
        self.take(delivery)

    def take(self, delivery: Delivery) -> None:
        self.told.append(delivery)
        for key, events in delivery.events:
            self.events.setdefault(key, []).extend(events)
        self.released += [key for key, _ in delivery.released]
        self.work.update(delivery.released)
        if self._stops_after and self._stops_after <= set(self.released):
            self.worker.stop_nowait()

    def turns_until(self, condition: Callable[[], bool]) -> None:
        for _ in range(1000):
            if condition():
                return
            self.turn()
        pytest.fail("it never happened")

    def run_until_released(self, *keys: int) -> None:
        """The worker's own loop, deliveries held back as it does; it stops itself."""
        self._stops_after = set(keys)
        self.worker.run()

    def finish(self, *keys: int) -> list[Completion]:
        self.turns_until(lambda: set(keys) <= set(self.released))
        return [collect(self.events[key]) for key in keys]


def answers(text: str) -> ScriptedBackend:
    return ScriptedBackend(replying(lambda _: text))


def test_a_generation_reports_its_prompt_its_text_and_its_end() -> None:
    bench = Bench(answers("hi"))
    bench.submit(1)
    [completion] = bench.finish(1)
    assert completion.text == "hi"
    assert completion.finished.reason == "stop"
    assert (
        completion.finished.usage.prompt_tokens
        == len(CONVERSATION) - len("<|im_start|>") * 2 + 2 - len("<|im_end|>") + 1
    )
    assert completion.finished.usage.completion_tokens == 3, "the token that ends it counts"
    assert isinstance(bench.events[1][0], Started)
    bench.worker.check_idle()


def test_a_long_prompt_reports_its_progress() -> None:
    bench = Bench(ScriptedBackend(), idle_tokens=32)
    bench.submit(1, list(range(106)), max_tokens=1)
    bench.finish(1)
    assert [e for e in bench.events[1] if isinstance(e, Prefill)] == [
        Prefill(32, 106),
        Prefill(64, 106),
        Prefill(96, 106),
    ]


def test_max_tokens_is_exact_and_no_step_runs_for_a_token_nobody_gets() -> None:
    bench = Bench(ScriptedBackend())
    bench.submit(1, max_tokens=5)
    [completion] = bench.finish(1)
    assert len(completion.text) == 5
    assert completion.finished.reason == "length"
    assert len(bench.backend.steps) == 5, "one prefill, which gives the first token, and four decodes"


def test_a_stop_string_ends_it_in_the_step_that_completed_it() -> None:
    bench = Bench(answers("one two three"))
    bench.submit(1, stop=("tw",))
    [completion] = bench.finish(1)
    assert completion.text == "one "
    assert (completion.finished.reason, completion.finished.stop_sequence) == ("stop_sequence", "tw")
    assert len(bench.backend.steps) == len("one tw")


def test_streams_batched_together_say_what_each_says_alone() -> None:
    prompts = [f"{CONVERSATION}{'x' * (17 * i)}" for i in range(8)]
    alone = []
    for prompt in prompts:
        bench = Bench(ScriptedBackend(rambling))
        bench.submit(1, prompt, max_tokens=30)
        alone += bench.finish(1)
    together = Bench(ScriptedBackend(rambling))
    for key, prompt in enumerate(prompts):
        together.submit(key, prompt, max_tokens=30)
        together.turn()
    texts = [completion.text for completion in together.finish(*range(8))]
    assert texts == [completion.text for completion in alone]
    assert max(len(step) for step in together.backend.steps) == 8, "they did run in one batch"
    together.worker.check_idle()


def test_a_preempted_stream_says_the_same_as_one_that_was_not() -> None:
    roomy, tight = Bench(ScriptedBackend()), Bench(ScriptedBackend(ctx_tokens=128))
    for bench in (roomy, tight):
        for key in range(3):
            bench.submit(key, list(range(key, key + 20)), max_tokens=60)
    texts = [c.text for c in roomy.finish(0, 1, 2)]
    assert [c.text for c in tight.finish(0, 1, 2)] == texts
    assert len(tight.backend.steps) > len(roomy.backend.steps), "nothing was preempted"
    tight.worker.check_idle()


@pytest.mark.parametrize("turns", [0, 1, 2, 5])
def test_a_cancelled_task_is_gone_before_the_next_step_and_the_others_do_not_notice(turns: int) -> None:
    bench = Bench(ScriptedBackend(), idle_tokens=16)
    undisturbed = Bench(ScriptedBackend(), idle_tokens=16)
    for b in (bench, undisturbed):
        b.submit(1, list(range(40)))
    bench.submit(2, list(range(60)))
    for _ in range(turns):
        bench.turn()
    bench.worker.cancel_nowait(2)
    bench.turn()
    assert bench.released == [2]
    steps = len(bench.backend.steps)
    [completion] = bench.finish(1)
    assert all(chunk.sequence == 0 for step in bench.backend.steps[steps:] for chunk in step)
    assert [completion.text] == [c.text for c in undisturbed.finish(1)]
    bench.worker.check_idle()
    assert bench.backend.open_samplers == 0


def test_cancelling_what_has_ended_is_harmless() -> None:
    bench = Bench(answers("x"))
    bench.submit(1)
    bench.finish(1)
    bench.worker.cancel_nowait(1)
    bench.turn()
    assert bench.released == [1], "released once"


def test_a_chunk_that_fails_fails_alone() -> None:
    def refuse_long(chunks: Sequence[Chunk]) -> None:
        if any(len(chunk.tokens) == 7 for chunk in chunks):
            raise EngineFailed("seven is too many")

    bench = Bench(ScriptedBackend(on_step=refuse_long))
    bench.submit(1, list(range(5)))
    bench.submit(2, list(range(7)))
    bench.submit(3, list(range(6)))
    bench.turns_until(lambda: len(bench.released) == 3)
    assert isinstance(bench.events[2][-1], Failed)
    assert isinstance(bench.events[1][-1], Finished)
    assert isinstance(bench.events[3][-1], Finished)
    bench.worker.check_idle()


def test_a_sampler_that_breaks_fails_its_own_request(caplog: pytest.LogCaptureFixture) -> None:
    def script(tokens: Sequence[int]) -> int:
        if tokens[0] == 9 and len(tokens) > 4:
            raise ZeroDivisionError
        return rambling(tokens)

    bench = Bench(ScriptedBackend(script))
    bench.submit(1, [1, 2, 3])
    bench.submit(2, [9, 2, 3])
    bench.turns_until(lambda: len(bench.released) == 2)
    assert isinstance(bench.events[2][-1], Failed)
    assert "ZeroDivisionError" not in bench.events[2][-1].error.message, "no internals for the client"
    assert "ZeroDivisionError" in caplog.text
    assert collect(bench.events[1]).finished.reason == "length"
    bench.worker.check_idle()


def test_stop_forgets_everything() -> None:
    bench = Bench(ScriptedBackend())
    bench.submit(1)
    bench.worker.stop_nowait()
    bench.worker.run()
    bench.worker.check_idle()


def test_a_retry_goes_on_where_the_cancelled_prefill_stopped() -> None:
    bench = Bench(ScriptedBackend(), idle_tokens=32)
    bench.submit(1, list(range(100)))
    bench.turn()
    bench.turn()
    bench.worker.cancel_nowait(1)
    bench.turn()
    assert bench.work[1] == Waste(prefill_kept=64)
    bench.submit(2, list(range(100)), max_tokens=3)
    [completion] = bench.finish(2)
    assert completion.finished.usage.cached_tokens == 64
    assert bench.computed_tokens == 100 + 2, "each prompt token once, and two of the output"
    bench.worker.check_idle()


def test_what_is_cached_of_a_prompt_is_known_before_it_starts() -> None:
    bench = Bench(ScriptedBackend(), idle_tokens=32)
    known = np.arange(100, dtype=np.int32)
    assert bench.worker.cached_tokens(known) == 0
    bench.submit(1, known.tolist(), max_tokens=1)
    bench.submit(2, list(range(500, 560)), max_tokens=40)
    bench.run_until_released(1)
    assert bench.worker.cached_tokens(known) == 100
    assert bench.worker.cached_tokens(np.array([*range(50), 7], np.int32)) == 50
    assert bench.worker.cached_tokens(np.arange(500, 600, dtype=np.int32)) == 60, "of one that still runs"
    assert bench.worker.cached_tokens(np.arange(1, 50, dtype=np.int32)) == 0


def test_a_shared_prompt_is_computed_once_and_nobody_hears_another_s_answer() -> None:
    system = list(range(200))
    alone = []
    for key in range(6):
        bench = Bench(ScriptedBackend(), prefix_reuse=False)
        bench.submit(key, [*system, key, key])
        alone += bench.finish(key)
    together = Bench(ScriptedBackend())
    for key in range(6):
        together.submit(key, [*system, key, key])
    completions = together.finish(*range(6))
    assert [c.text for c in completions] == [c.text for c in alone]
    assert sum(c.finished.usage.cached_tokens for c in completions) == 5 * 200
    together.worker.check_idle()


def test_conversations_that_do_not_fit_together_are_saved_and_go_on_where_they_were() -> None:
    """Ten of 100 tokens take turns in a cache for three."""
    bench = Bench(ScriptedBackend(ctx_tokens=360), host_cache_bytes=10_000)
    fresh = Bench(ScriptedBackend(ctx_tokens=360), prefix_reuse=False)
    for turn in range(2):
        for number in range(10):
            key = 10 * turn + number
            prompt = [number + position % 200 for position in range(100 + 15 * turn)]
            bench.submit(key, prompt, max_tokens=5)
            fresh.submit(key, prompt, max_tokens=5)
            [completion], [expected] = bench.finish(key), fresh.finish(key)
            assert completion.text == expected.text
            assert completion.finished.usage.cached_tokens == 100 * turn
            bench.worker.check_idle()


def test_there_are_no_drafts_beside_a_prefill() -> None:
    bench = Bench(answers("abc " * 60), idle_tokens=16)
    bench.submit(1, max_tokens=200)
    bench.turns_until(lambda: any(chunk.rows > 4 for step in bench.backend.steps[-1:] for chunk in step))
    bench.submit(2, list(range(200)), max_tokens=1)
    began = len(bench.backend.steps) + 1  # it begins after the decode step whose turn it is
    bench.turns_until(lambda: 2 in bench.released)
    beside = bench.backend.steps[began:]
    assert len(beside) > 20
    assert all(chunk.rows <= 1 for step in beside for chunk in step)


def test_saved_sequences_are_forgotten_when_the_backend_is_lost() -> None:
    def fail(chunks: Sequence[Chunk]) -> None:
        if chunks[0].tokens[0] == 7:
            raise BackendLost("lost")

    bench = Bench(ScriptedBackend(ctx_tokens=120, on_step=fail), host_cache_bytes=10_000)
    for key in (1, 2):
        bench.submit(key, [key] * 80)
        bench.finish(key)
    assert bench.backend.cache.saves == 1
    bench.submit(3, [7] * 80)
    bench.turns_until(lambda: 3 in bench.released)
    bench.submit(4, [1] * 80)
    [completion] = bench.finish(4)
    assert completion.finished.usage.cached_tokens == 0
    bench.worker.check_idle()


@pytest.mark.parametrize("leaver_tokens", [60, 10])
def test_leaving_aborts_the_step_if_that_saves_more_than_it_costs(
    leaver_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two prompts share a step; the survivor's text is the same either way."""
    monkeypatch.setattr(scheduler, "LONGER", math.inf)
    undisturbed = Bench(ScriptedBackend())
    undisturbed.submit(1, list(range(30)))
    [expected] = undisturbed.finish(1)

    def leave(chunks: Sequence[Chunk]) -> None:
        if len(chunks) == 2 and not left:
            left.append(True)
            bench.worker.cancel_nowait(2)

    left: list[bool] = []
    bench = Bench(ScriptedBackend(on_step=leave), idle_tokens=200)
    bench.submit(1, list(range(30)))
    bench.submit(2, list(range(300, 300 + leaver_tokens)))
    [completion] = bench.finish(1)
    assert completion.text == expected.text
    was_aborted = leaver_tokens == 60
    assert bench.work[2].prefill_dropped == (60 if was_aborted else 0)
    assert bench.computed_tokens == 30 + 19 + (0 if was_aborted else leaver_tokens)
    bench.worker.check_idle()


@pytest.mark.parametrize(
    "text", ["abc " * 30, "the cat sat on the mat; the cat sat on the hat; the end of the cat"]
)
def test_drafting_changes_the_number_of_steps_and_nothing_else(text: str) -> None:
    backends = [answers(text), answers(text)]
    benches = [
        Bench(backend, prompt_lookup=drafts) for backend, drafts in zip(backends, (False, True), strict=True)
    ]
    for bench in benches:
        bench.submit(1, max_tokens=200)
    plain, drafted = (bench.finish(1)[0] for bench in benches)
    assert drafted.text == plain.text == text
    assert drafted.finished.usage.completion_tokens == plain.finished.usage.completion_tokens
    sampled = [event for event in benches[1].events[1] if isinstance(event, Sampled)]
    accepted = sum(step.accepted for step in sampled)
    assert accepted > 0
    assert len(backends[1].steps) == len(backends[0].steps) - accepted
    assert sum(step.tokens for step in sampled) == drafted.finished.usage.completion_tokens
    assert all(step.tokens == step.accepted + 1 for step in sampled)
    assert all(b"".join(step.draft[: step.accepted]) in text.encode() for step in sampled)
    for bench in benches:
        bench.worker.check_idle()


@pytest.mark.parametrize("end", ["stop string", "max tokens"])
def test_a_draft_never_runs_past_the_end(end: str) -> None:
    options = {"stop": ("sat on the h",)} if end == "stop string" else {"max_tokens": 37}
    texts = []
    for drafts in (False, True):
        backend = answers("the cat sat on the mat; the cat sat on the hat; the cat")
        bench = Bench(backend, prompt_lookup=drafts)
        bench.submit(1, **options)
        texts.append(bench.finish(1)[0].text)
        bench.worker.check_idle()
    assert texts[0] == texts[1]


def test_text_that_waits_for_more_says_the_same_in_fewer_deliveries() -> None:
    def run(interval_ms: float) -> tuple[str, int]:
        bench = Bench(ScriptedBackend(), stream_interval_ms=interval_ms)
        bench.submit(1, max_tokens=40)
        bench.submit(2, max_tokens=40)
        bench.run_until_released(1, 2)
        return collect(bench.events[1]).text + collect(bench.events[2]).text, len(bench.told)

    text, deliveries = run(0)
    assert deliveries >= 40
    assert run(3.6e6)[0] == text
    assert run(3.6e6)[1] < 10, "what begins, what ends, and what had come until then"


def sampled(events: Iterable[Event]) -> int:
    return sum(event.tokens for event in events if isinstance(event, Sampled))


def test_text_that_waits_is_told_before_a_failure() -> None:
    steps = count()

    def fail(_chunks: Sequence[Chunk]) -> None:
        if next(steps) == 4:
            raise BackendLost("gone")

    bench = Bench(ScriptedBackend(on_step=fail), stream_interval_ms=3.6e6)
    bench.submit(1, max_tokens=40)
    bench.run_until_released(1)
    assert sampled(bench.events[1]) == 4
    assert isinstance(bench.events[1][-1], Failed)


@pytest.mark.parametrize("arrives", [0, 5])
@pytest.mark.parametrize("prefill_ms", [1e5, 1e7])
def test_text_does_not_wait_for_a_prompt_that_takes_longer_than_it_may(
    arrives: int, prefill_ms: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other prompt is there from the start, or comes while a step decodes."""
    monkeypatch.setattr(Planner, "expected_ms", lambda _self, step: prefill_ms if step.is_prefill else 0.0)
    untold: list[int] = []

    def look(chunks: Sequence[Chunk]) -> None:
        steps = bench.backend.steps
        if len(steps) == arrives:
            bench.submit(2, list(range(64)), max_tokens=1)
        if chunks[0].sequence == 1:
            rows = sum(chunk.rows for step in steps for chunk in step if chunk.sequence == 0)
            untold.append(rows - sampled(bench.events.get(1, ())))

    bench = Bench(ScriptedBackend(on_step=look), idle_tokens=16, stream_interval_ms=3.6e6)
    bench.submit(1, [1], max_tokens=30)
    bench.run_until_released(1, 2)
    assert len(untold) >= 4
    assert not any(untold) if prefill_ms > 3.6e6 else all(untold)


def test_held_text_goes_before_a_prefix_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps take no time, and text may wait for an hour: only the copy sends it off."""
    monkeypatch.setattr(Planner, "expected_ms", lambda _self, _step: 0.0)
    bench = Bench(ScriptedBackend(), stream_interval_ms=3.6e6)

    def turns(count: int) -> None:
        for _ in range(count):
            delivery = bench.worker.run_once()
            assert delivery is not None
            bench.worker._outbox.put(delivery)

    bench.submit(1, list(range(40)), max_tokens=1)
    turns(1)
    bench.submit(2, [1], max_tokens=30)
    turns(5)
    assert sampled(bench.events[2]) == 1, "the others are held"
    told: list[int] = []
    copy = bench.backend.cache.copy

    def look(source: int, target: int, length: int) -> None:
        told.append(sampled(bench.events[2]))
        copy(source, target, length)

    monkeypatch.setattr(bench.backend.cache, "copy", look)
    bench.submit(3, list(range(50)), max_tokens=1)
    turns(2)
    assert told == [5]


def test_a_token_that_is_no_text_yet_is_counted_until_the_character_is_whole() -> None:
    letter = list("é".encode())
    bench = Bench(ScriptedBackend(lambda tokens: letter[len(tokens) % 2]))
    bench.submit(1, [97], max_tokens=5)
    unsaid = []
    for _ in range(4):
        bench.turn()
        [lane] = bench.worker._scheduler.running
        unsaid.append(lane.unsaid)
    assert unsaid == [0, 1, 0, 1]


def test_what_still_waits_when_the_worker_stops_is_told() -> None:
    def stop(_chunks: Sequence[Chunk]) -> None:
        if len(bench.backend.steps) == 4:
            bench.worker.stop_nowait()

    bench = Bench(ScriptedBackend(on_step=stop), stream_interval_ms=3.6e6)
    bench.submit(1, [1], max_tokens=30)
    bench.worker.run()
    assert sampled(bench.events[1]) == len(bench.backend.steps) == 5


def test_all_drafts_of_a_step_together_are_bounded() -> None:
    bench = Bench(ScriptedBackend(replying(lambda _: "abc " * 60), batch_rows=9))
    for key in range(4):
        bench.submit(key, max_tokens=100)
    bench.finish(*range(4))
    assert max(sum(chunk.rows for chunk in step) for step in bench.backend.steps if len(step) == 4) == 8


def test_with_nowhere_to_save_them_remainders_share_one_context() -> None:
    backend = ScriptedBackend(ctx_tokens=4096, sequence_ctx_tokens=512, shares_cells=False)
    bench = Bench(backend)
    for key in range(8):
        bench.submit(key, [1000 * key + token for token in range(60)], max_tokens=1)
        bench.finish(key)
    kept = [length for own in range(backend.cache.shape.sequences) if (length := backend.cache.length(own))]
    assert kept == [60, 60, 60], "a quarter of 512, and the newest"


class HoldingPace(FixedPace):
    """Holds decoding back while there is more than one prompt, and remembers what it was told."""

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self.asked: list[tuple[int, int]] = []
        self.aborted = 0

    def prefill_tokens(self, load: Load) -> int:
        self.asked.append((load.prefilling, load.prefill_tokens))
        return self.batch_tokens if load.prefilling > 1 else super().prefill_tokens(load)

    def observe_aborted(self, elapsed_ms: float) -> None:
        assert elapsed_ms > 0
        super().observe_aborted(elapsed_ms)
        self.aborted += 1


def test_whose_turn_it_is_is_what_the_pace_says() -> None:
    bench = Bench(ScriptedBackend(), pace=(pace := HoldingPace(16)))
    bench.submit(1, [1], max_tokens=30)
    bench.turn()
    for key in (2, 3):
        bench.submit(key, [key] * 32, max_tokens=1)
    bench.turns_until(lambda: {2, 3} <= set(bench.released))
    sizes = [tuple(len(chunk.tokens) for chunk in step) for step in bench.backend.steps]
    assert sizes == [(1,), (16,), (16,), (1,), (16,), (1,), (16,)]
    assert pace.asked == [(1, 1), (2, 64), (2, 48), (1, 32), (1, 32), (1, 16), (1, 16)]


def test_nobody_drafts_for_a_step_of_prompts() -> None:
    small = ScriptedBackend()
    backend = ScriptedBackend()
    bench = Bench(backend, pace=HoldingPace(16), prompt_lookup=False, draft_model=DraftModel(small, backend))
    bench.submit(1, [1], max_tokens=40)
    bench.turns_until(lambda: bool(small.steps))
    drafted = len(small.steps)
    for key in (2, 3):
        bench.submit(key, [key] * 32, max_tokens=1)
    bench.turn()
    assert len(backend.steps[-1][0].tokens) == 16
    assert len(small.steps) == drafted


def test_a_prefill_that_was_cut_short_counts_as_time_that_streams_waited() -> None:
    def leave(chunks: Sequence[Chunk]) -> None:
        bench.worker.cancel_nowait(1)

    bench = Bench(ScriptedBackend(on_step=leave), pace=(pace := HoldingPace(16)))
    bench.submit(1, list(range(30)))
    bench.turn()
    assert pace.aborted == 1


@pytest.mark.parametrize(("shares_cells", "saved"), [(True, 0), (False, 3)])
def test_remainders_are_counted_as_the_backend_keeps_them(shares_cells: bool, saved: int) -> None:
    """Five conversations with one long beginning, of which one runs: as one copy of it or as five."""
    bench = Bench(ScriptedBackend(shares_cells=shares_cells), host_cache_bytes=2**20)
    for key in range(4):
        bench.submit(key, [*range(600), 1000 + key], max_tokens=1)
        bench.finish(key)
    bench.submit(9, [*range(600), 2000], max_tokens=20)
    bench.finish(9)
    assert bench.backend.cache.saves == saved


def test_a_lost_backend_fails_what_runs_is_rebuilt_and_serves_the_next() -> None:
    def lose(chunks: Sequence[Chunk]) -> None:
        if chunks[0].position >= 20 and not lost:
            lost.append(True)
            raise BackendLost("the device went away")

    lost: list[bool] = []
    bench = Bench(ScriptedBackend(on_step=lose))
    bench.submit(1, list(range(15)))
    bench.submit(2, list(range(50, 65)))
    bench.turns_until(lambda: len(bench.released) == 2)
    assert all(isinstance(bench.events[key][-1], Failed) for key in (1, 2))
    assert [type(d.failure) for d in bench.told if d.failure] == [BackendLost]
    assert [d.has_recovered for d in bench.told][-1]
    bench.submit(3, list(range(15)), max_tokens=4)
    [completion] = bench.finish(3)
    assert completion.finished.usage.cached_tokens == 0, "nothing of the lost cache is believed"
    bench.worker.check_idle()


class FragileCache(ScriptedCache):
    """Is lost when something happens to it that `breaks` for the first time."""

    def __init__(self, shape: CacheShape, breaks: str) -> None:
        super().__init__(shape)
        self._breaks = breaks

    def remove(self, sequence: int, start: int) -> None:
        if start > 0:
            self._break("cut")
        super().remove(sequence, start)

    def save(self, sequence: int) -> SavedSequence:
        self._break("save")
        return super().save(sequence)

    def _break(self, what: str) -> None:
        if what == self._breaks:
            self._breaks = ""
            raise BackendLost(f"lost in a {what}")


@pytest.mark.parametrize("breaks", ["cut", "save"])
def test_a_cache_that_is_lost_between_steps_is_rebuilt_like_one_lost_in_a_step(breaks: str) -> None:
    """A refused draft is cut off; and what an ended task left is saved when the next one needs its room."""
    backend = answers("the cat sat on the mat; the cat sat on the hat; the end of the cat")
    backend.cache = FragileCache(replace(backend.cache.shape, ctx_tokens=256), breaks)
    bench = Bench(backend, host_cache_bytes=10_000)
    bench.submit(1, "another beginning " * 10 + CONVERSATION, max_tokens=1)
    bench.finish(1)
    bench.submit(2, max_tokens=60)
    bench.turns_until(lambda: 2 in bench.released)
    [failed] = [event for event in bench.events[2] if isinstance(event, Failed)]
    assert failed.error.message == f"lost in a {breaks}"
    assert [delivery.has_recovered for delivery in bench.told][-1]
    bench.submit(3, max_tokens=60)
    assert bench.finish(3)[0].text.startswith("the cat sat on the mat; the cat sat on the hat")
    bench.worker.check_idle()


def test_what_was_learned_of_costs_can_be_read_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "corral.engine")
    backend = ScriptedBackend()
    worker = Worker(backend, EngineOptions(slots=1), deliver=lambda _: None)
    run_tasks(worker, [Task(1, list(range(64)), Sampling(), 5)])
    worker.stop_nowait()
    worker.run()
    rows = [line.split() for line in caplog.text.splitlines()]
    [one] = [row for row in rows if row[:1] == ["1"]]
    [prompt] = [row for row in rows if row[:1] == ["64"]]
    assert one[1].endswith("*")
    assert prompt[2].endswith("*")
