"""Texts embedded by the worker, beside those that generate; and what the engine refuses of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.engine.local.drive import FixedCosts, FixedPace, run_tasks

from corral.engine.contract import Waste
from corral.engine.local.backend import BackendLost, Chunk
from corral.engine.local.embedding.turns import shortened
from corral.engine.local.engine import LocalEngine
from corral.engine.local.options import EngineOptions
from corral.engine.local.scripted import ByteVocabulary, ScriptedBackend, ScriptedEmbedder, embeds
from corral.engine.local.task import Delivery, EmbedTask, Task
from corral.engine.local.worker import Worker
from corral.errors import ContextExceeded, EngineFailed, InvalidRequest
from corral.events import Embedded, Event, Failed, Finished, Prefill, Sampled, Usage, collect
from corral.request import Embed, GenerationRequest, RawPrompt, Sampling

OPTIONS = EngineOptions(slots=8, prompt_lookup=False)
DIMENSIONS = 8


def worker_on(backend: ScriptedBackend) -> Worker:
    return Worker(backend, OPTIONS, deliver=lambda _: None, pace=FixedPace(64, FixedCosts()))


def embedder_of(backend: ScriptedBackend) -> ScriptedEmbedder:
    assert backend.scripted_embedder is not None
    return backend.scripted_embedder


def alone(backend: ScriptedBackend, tokens: Sequence[int], dimensions: int = DIMENSIONS) -> np.ndarray:
    """What comes of an input that is computed at once and by itself."""
    embedder = embedder_of(backend)
    own = [embedder.token_vector(tokens[: end + 1]) for end in range(len(tokens))]
    return shortened(embedder.pooled(own), dimensions)


def generating(key: int, tokens: int) -> Task:
    return Task(key, [65, key], Sampling(temperature=0), tokens)


class Events:
    """What the worker tells, by key."""

    def __init__(self, worker: Worker) -> None:
        self.by_key: dict[int, list[Event]] = {}
        self.released: dict[int, Waste] = {}
        self._worker = worker

    def step(self) -> Delivery:
        delivery = self._worker.run_once()
        assert delivery is not None
        for key, events in delivery.events:
            self.by_key.setdefault(key, []).extend(events)
        self.released |= dict(delivery.released)
        return delivery

    def until_released(self, key: int) -> None:
        while key not in self.released:
            self.step()


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_vectors_are_those_of_each_input_alone_whoever_generates_beside_them(pooling: Any) -> None:
    backend = ScriptedBackend(embeds=embeds(pooling=pooling))
    worker, embedding = worker_on(backend), EmbedTask(9, [[1, 2, 3], [4] * 150, [5]], DIMENSIONS)
    events = Events(worker)
    for key in range(3):
        worker.submit_nowait(generating(key, 20))
    worker.submit_nowait(embedding)
    for key in (*range(3), 9):
        events.until_released(key)
    worker.check_idle()
    completion = collect(events.by_key[9])
    for tokens, vector in zip(embedding.inputs, completion.vectors, strict=True):
        assert np.frombuffer(vector, "<f4") == pytest.approx(alone(backend, tokens), abs=1e-6)
    assert completion.finished.usage == Usage(154, 0, 0)
    texts = [collect(events.by_key[key]).text for key in range(3)]
    quiet = ScriptedBackend()
    assert texts == [c.text for c in run_tasks(worker_on(quiet), [generating(key, 20) for key in range(3)])]


def test_progress_is_told_in_tokens() -> None:
    worker = worker_on(ScriptedBackend(embeds=embeds()))
    events = Events(worker)
    worker.submit_nowait(EmbedTask(1, [[1] * 150, [2] * 10], DIMENSIONS))
    events.until_released(1)
    progress = [event for event in events.by_key[1] if isinstance(event, Prefill)]
    assert progress[-1] == Prefill(160, 160)
    assert [event.done for event in progress] == sorted(event.done for event in progress)
    assert len(progress) >= 3, "of more tokens than a step takes there are several"


def test_streams_keep_half_of_their_pace_and_wait_for_one_step_of_inputs_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    now_s = 0.0

    def compute(chunks: Sequence[Chunk]) -> None:
        nonlocal now_s
        is_embedding = 3 in chunks[0].tokens
        order.append("embed" if is_embedding else "decode")
        now_s += 1 / 32 if is_embedding else 1 / 128

    monkeypatch.setattr("corral.engine.local.worker.perf_counter", lambda: now_s)
    worker = worker_on(ScriptedBackend(embeds=embeds(cells=4096, input_tokens=4096), on_step=compute))
    events = Events(worker)
    worker.submit_nowait(generating(1, 30))
    worker.submit_nowait(EmbedTask(2, [[3] * 4000], DIMENSIONS))
    events.until_released(1)
    told = "".join("E" if kind == "embed" else "d" for kind in order)
    assert told.startswith("EdE"), "a prompt takes turns with it"
    runs = told.strip("d").split("E")[2:-1]
    assert len(runs) >= 5
    assert set(runs) == {"dddd"}, "as long as a step of inputs takes they decode, and no longer"


def test_no_text_is_held_back_while_inputs_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    computed, told, now_s = 0, 0, 0.0
    seen: list[tuple[int, int]] = []
    released: set[int] = set()

    def compute(chunks: Sequence[Chunk]) -> None:
        nonlocal computed, now_s
        if 3 in chunks[0].tokens:
            seen.append((computed, told))
            now_s += 1 / 32
        else:
            computed += 1
            now_s += 1 / 128

    def deliver(delivery: Delivery) -> None:
        nonlocal told
        told += sum(
            event.tokens for _, events in delivery.events for event in events if isinstance(event, Sampled)
        )
        released.update(key for key, _ in delivery.released)
        if released == {1, 2}:
            worker.stop_nowait()

    backend = ScriptedBackend(embeds=embeds(cells=4096, input_tokens=4096), on_step=compute)
    options = replace(OPTIONS, stream_interval_ms=1e12)
    monkeypatch.setattr("corral.engine.local.worker.perf_counter", lambda: now_s)
    worker = Worker(backend, options, deliver=deliver, pace=FixedPace(64, FixedCosts()))
    worker.submit_nowait(generating(1, 30))
    worker.submit_nowait(EmbedTask(2, [[3] * 2000], DIMENSIONS))
    worker.run()
    assert len({tokens for tokens, _ in seen}) > 3, "inputs were computed between tokens"
    assert all(tokens == delivered for tokens, delivered in seen)


def test_a_cancelled_task_leaves_nothing_and_says_what_was_in_vain() -> None:
    backend = ScriptedBackend(embeds=embeds())
    worker = worker_on(backend)
    events = Events(worker)
    worker.submit_nowait(EmbedTask(1, [[1] * 200], DIMENSIONS))
    worker.submit_nowait(EmbedTask(2, [[2] * 10], DIMENSIONS))
    events.step()
    assert embedder_of(backend).held_tokens > 0
    done = next(event.done for event in events.by_key[1] if isinstance(event, Prefill))
    worker.cancel_nowait(1)
    events.step()
    assert events.released[1] == Waste(prefill_dropped=done)
    events.until_released(2)
    worker.check_idle()
    assert embedder_of(backend).held_tokens == 0


def test_the_running_step_is_cut_short_when_those_who_leave_own_most_of_it() -> None:
    worker: Worker

    def leave(chunks: Sequence[Chunk]) -> None:
        if any(1 in chunk.tokens for chunk in chunks):
            worker.cancel_nowait(1)

    backend = ScriptedBackend(embeds=embeds(), on_step=leave)
    worker = worker_on(backend)
    events = Events(worker)
    worker.submit_nowait(EmbedTask(1, [[1] * 100], DIMENSIONS))
    worker.submit_nowait(EmbedTask(2, [[2] * 10], DIMENSIONS))
    events.until_released(2)
    assert not any(1 in chunk.tokens for step in embedder_of(backend).steps for chunk in step)
    assert events.released[1].prefill_dropped > 0
    [vector] = collect(events.by_key[2]).vectors
    assert np.frombuffer(vector, "<f4") == pytest.approx(alone(backend, [2] * 10), abs=1e-6)


def test_where_nothing_is_left_of_an_aborted_step_who_stays_begins_again() -> None:
    worker: Worker
    steps = 0

    def leave(chunks: Sequence[Chunk]) -> None:
        nonlocal steps
        steps += 1
        if steps == 2:
            worker.cancel_nowait(1)

    backend = ScriptedBackend(embeds=embeds(can_undo=False), on_step=leave)
    worker = worker_on(backend)
    events = Events(worker)
    worker.submit_nowait(EmbedTask(1, [[1] * 120], DIMENSIONS))
    worker.submit_nowait(EmbedTask(2, [[2] * 100], DIMENSIONS))
    events.until_released(2)
    [vector] = collect(events.by_key[2]).vectors
    assert np.frombuffer(vector, "<f4") == pytest.approx(alone(backend, [2] * 100), abs=1e-6)
    assert embedder_of(backend).held_tokens == 0
    worker.check_idle()


def test_where_it_cannot_be_found_out_who_was_at_fault_all_of_a_step_fail() -> None:
    has_failed = False

    def fail(chunks: Sequence[Chunk]) -> None:
        nonlocal has_failed
        if not has_failed:
            has_failed = True
            raise EngineFailed("that cannot be computed")

    backend = ScriptedBackend(embeds=embeds(can_undo=False), on_step=fail)
    worker = worker_on(backend)
    events = Events(worker)
    for key in (1, 2):
        worker.submit_nowait(EmbedTask(key, [[key] * 100], DIMENSIONS))
    for key in (1, 2):
        events.until_released(key)
        assert isinstance(events.by_key[key][-1], Failed)
    worker.check_idle()


def test_only_the_input_that_cannot_be_computed_fails() -> None:
    def fail(chunks: Sequence[Chunk]) -> None:
        if any(66 in chunk.tokens for chunk in chunks):
            raise EngineFailed("that cannot be computed")

    backend = ScriptedBackend(embeds=embeds(), on_step=fail)
    worker = worker_on(backend)
    events = Events(worker)
    worker.submit_nowait(EmbedTask(1, [[1, 2], [66]], DIMENSIONS))
    worker.submit_nowait(EmbedTask(2, [[3]], DIMENSIONS))
    for key in (1, 2):
        events.until_released(key)
    assert isinstance(events.by_key[1][-1], Failed)
    assert isinstance(events.by_key[2][-1], Finished)
    worker.check_idle()


def test_numbers_that_are_none_are_an_error_and_no_vector() -> None:
    backend = ScriptedBackend(embeds=embeds())
    embedder = embedder_of(backend)
    embedder.token_vector = lambda tokens: np.full(DIMENSIONS, np.nan)  # type: ignore[method-assign]
    worker = worker_on(backend)
    events = Events(worker)
    worker.submit_nowait(EmbedTask(1, [[1]], DIMENSIONS))
    events.until_released(1)
    assert not [event for event in events.by_key[1] if isinstance(event, Embedded | Finished)]
    assert isinstance(events.by_key[1][-1], Failed)


def test_where_the_backend_is_lost_all_fail_and_the_next_go_on() -> None:
    is_lost = [True]

    def lose(chunks: Sequence[Chunk]) -> None:
        if is_lost[0] and any(66 in chunk.tokens for chunk in chunks):
            raise BackendLost("gone")

    backend = ScriptedBackend(embeds=embeds(), on_step=lose)
    told: list[Delivery] = []
    worker = Worker(backend, OPTIONS, deliver=told.append, pace=FixedPace(64, FixedCosts()))
    events = Events(worker)
    worker.submit_nowait(generating(1, 500))
    worker.submit_nowait(EmbedTask(2, [[66]], DIMENSIONS))
    while not told:
        events.step()
    assert sorted(key for key, _ in told[0].released) == [1, 2]
    assert all(isinstance(told_last[-1], Failed) for _, told_last in told[0].events)
    worker.check_idle()
    is_lost[0] = False
    worker.submit_nowait(EmbedTask(3, [[66]], DIMENSIONS))
    events.until_released(3)
    assert isinstance(events.by_key[3][-1], Finished)


# What the engine refuses


def embedding(*inputs: str | tuple[int, ...], dimensions: int | None = None) -> GenerationRequest:
    prompts = (RawPrompt(each) if isinstance(each, str) else RawPrompt(tokens=each) for each in inputs)
    return GenerationRequest(embed=Embed(tuple(prompts), dimensions))


async def refused(request: GenerationRequest, **backend: Any) -> InvalidRequest:
    backend.setdefault("embeds", embeds())
    engine = LocalEngine(ScriptedBackend(**backend), OPTIONS)
    try:
        engine.check(request)
        await engine.prepare(request, client="somebody")
    except InvalidRequest as error:
        return error
    raise AssertionError("it is taken")


async def test_a_model_that_makes_no_vectors_says_what_setting_would_change_that() -> None:
    error = await refused(embedding("x"), embeds=None)
    assert "--pooling" in error.message
    assert error.param == "model"


async def test_a_model_that_only_reads_says_so_to_who_wants_an_answer() -> None:
    error = await refused(GenerationRequest(prompt=RawPrompt("x")), generates=False)
    assert "/v1/embeddings" in error.message


async def test_an_input_that_is_too_long_is_named() -> None:
    for request in (embedding("x", "y" * 257), embedding((1,), (1,) * 257)):
        error = await refused(request)
        assert isinstance(error, ContextExceeded)
        assert (error.limit_tokens, error.prompt_tokens, error.param) == (256, 257, "input[1]")
    assert (await refused(embedding("y" * 257))).param == "input"


async def test_a_model_that_only_reads_may_make_one_token_of_many_bytes() -> None:
    class Words(ByteVocabulary):
        def tokenize(self, text: str, *, parse_control: bool, continues: bool = False) -> list[int]:
            return [len(word) % 256 for word in text.split()]

    backend = ScriptedBackend(generates=False, embeds=embeds())
    backend.model.vocabulary = Words()
    engine = LocalEngine(backend, OPTIONS)
    request = embedding("w" * 2000 + " " * 2000 + "x")
    engine.check(request)
    assert (await engine.prepare(request, client="somebody")).prompt_tokens == 2


async def test_a_text_that_is_too_long_is_not_read_to_its_end() -> None:
    read = 0

    class Words(ByteVocabulary):
        def tokenize(self, text: str, *, parse_control: bool, continues: bool = False) -> list[int]:
            nonlocal read
            read += len(text)
            return [len(word) % 256 for word in text.split()]

    backend = ScriptedBackend(generates=False, embeds=embeds())
    backend.model.vocabulary = Words()
    engine = LocalEngine(backend, OPTIONS)
    request = embedding("word " * 12_000)
    engine.check(request)
    with pytest.raises(ContextExceeded):
        await engine.prepare(request, client="somebody")
    assert 256 * len("word ") < read < 30_000


async def test_a_model_that_only_reads_takes_no_megabytes_of_blanks() -> None:
    error = await refused(embedding("x", " " * 256 * 256 + "x"), generates=False)
    assert error.param == "input[1]"
    assert "65536 characters" in error.message


async def test_more_dimensions_than_there_are_cannot_be_had() -> None:
    assert (await refused(embedding("x", dimensions=9))).param == "dimensions"


async def test_a_token_that_the_model_does_not_have_is_named() -> None:
    error = await refused(embedding((1,), (258,)))
    assert "258" in error.message
    assert error.param == "input[1]"


async def test_the_inputs_of_a_request_are_bounded_together() -> None:
    error = await refused(embedding(*["x" * 250] * 1300))
    assert isinstance(error, ContextExceeded)
    assert error.limit_tokens == 300_000


async def test_half_of_a_surrogate_pair_is_no_text() -> None:
    assert (await refused(embedding("\ud800"))).param == "input"
