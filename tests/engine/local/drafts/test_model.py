"""A draft model beside the model, both scripted: what is said never depends on it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.engine.local.drive import FixedCosts, FixedPace, run_tasks

from corral.engine.local.backend import BackendLost, Chunk
from corral.engine.local.costs import SEED
from corral.engine.local.drafts.model import REST_STEPS, DraftModel
from corral.engine.local.options import EngineOptions
from corral.engine.local.scripted import ByteVocabulary, Script, ScriptedBackend, rambling
from corral.engine.local.task import Delivery, Task
from corral.engine.local.worker import Worker
from corral.errors import EngineFailed, StartupError
from corral.events import Completion, Sampled
from corral.request import Sampling

SMALLER = replace(SEED, unit_ms=SEED.unit_ms / 10)
"""A draft model whose steps take a tenth of the model's."""


class Run:
    """What some prompts were answered, with or without a draft model, and how."""

    def __init__(
        self, draft: ScriptedBackend | None, prompts: Sequence[Sequence[int]], max_tokens: int = 60
    ) -> None:
        self.backend = ScriptedBackend(rambling)
        self.drafted = self.accepted = 0
        self.worker = Worker(
            self.backend,
            EngineOptions(slots=4, prompt_lookup=False),
            deliver=self._take,
            draft_model=None if draft is None else DraftModel(draft, self.backend, FixedCosts(SMALLER)),
            pace=FixedPace(64),
        )
        tasks = [Task(key, prompt, Sampling(), max_tokens) for key, prompt in enumerate(prompts)]
        self.completions: list[Completion] = run_tasks(self.worker, tasks, self._take)
        if draft is not None:
            assert draft.cache.used_cells == 0, "the draft model's cache is not empty"

    @property
    def texts(self) -> list[str]:
        return [completion.text for completion in self.completions]

    def _take(self, delivery: Delivery) -> None:
        for _, events in delivery.events:
            for event in events:
                if isinstance(event, Sampled):
                    self.drafted += len(event.draft)
                    self.accepted += event.accepted


def sometimes(tokens: Sequence[int]) -> int:
    return rambling(tokens) if len(tokens) % 3 else 65


def never(tokens: Sequence[int]) -> int:
    return 65


PROMPTS = [list(range(10)), list(range(100, 250)), [7]]


@pytest.mark.parametrize("script", [rambling, sometimes, never])
def test_what_is_said_does_not_depend_on_the_draft_model(script: Script) -> None:
    assert Run(ScriptedBackend(script), PROMPTS).texts == Run(None, PROMPTS).texts


def test_a_model_that_guesses_right_saves_steps() -> None:
    plain, drafted = Run(None, PROMPTS[:1]), Run(ScriptedBackend(rambling), PROMPTS[:1])
    assert len(drafted.backend.steps) < len(plain.backend.steps) / 3
    assert drafted.accepted == drafted.drafted > 40


def test_a_model_that_guesses_wrong_is_soon_asked_no_more() -> None:
    assert Run(ScriptedBackend(never), PROMPTS[:1], max_tokens=REST_STEPS).drafted < 20


def test_a_step_that_fails_costs_its_drafts_and_nothing_else() -> None:
    def fail(chunks: Sequence[Chunk]) -> None:
        raise EngineFailed("no")

    assert Run(ScriptedBackend(rambling, on_step=fail), PROMPTS).texts == Run(None, PROMPTS).texts


class Breaking(ScriptedBackend):
    """Is lost in its fifth step, cannot be touched until it was reset, and drafts again then."""

    def __init__(self, *, is_repairable: bool = True) -> None:
        super().__init__(rambling, on_step=self._break)
        self.is_lost = False
        self.resets = 0
        self.steps_after = 0
        self._countdown = 5
        self._is_repairable = is_repairable

    def reset(self) -> None:
        self.resets += 1
        assert not self.open_samplers, "a sampler of the lost context is still open"
        if not self._is_repairable:
            raise EngineFailed("it is gone")
        self.is_lost = False
        super().reset()

    def _break(self, chunks: Sequence[Chunk]) -> None:
        assert not self.is_lost
        self._countdown -= 1
        self.steps_after += self.resets
        if self._countdown == 0:
            self.is_lost = True
            self.cache.clear()
            raise BackendLost("the device went away")


def test_a_draft_model_that_is_lost_is_begun_again_and_drafts_again() -> None:
    draft = Breaking()
    run = Run(draft, PROMPTS)
    assert run.texts == Run(None, PROMPTS).texts
    assert draft.resets == 1
    assert draft.steps_after > 5


def test_a_draft_model_that_cannot_be_begun_again_is_asked_no_more() -> None:
    draft = Breaking(is_repairable=False)
    assert Run(draft, PROMPTS).texts == Run(None, PROMPTS).texts
    assert (draft.resets, draft.steps_after) == (1, 0)


def test_what_it_holds_of_a_backend_is_let_go_when_the_worker_stops() -> None:
    draft = ScriptedBackend(rambling)
    run = Run(draft, PROMPTS[:1])
    run.worker.stop_nowait()
    run.worker.run()
    assert draft.open_samplers == 0


def test_another_vocabulary_is_refused() -> None:
    class Other(ByteVocabulary):
        pieces = (*ByteVocabulary.pieces[:-1], b"x")

    draft = ScriptedBackend()
    draft.model.vocabulary = Other()
    with pytest.raises(StartupError, match="vocabulary"):
        DraftModel(draft, ScriptedBackend())


def test_a_memory_that_cannot_be_cut_is_refused() -> None:
    with pytest.raises(StartupError, match="cut"):
        DraftModel(ScriptedBackend(can_cut=False), ScriptedBackend())
