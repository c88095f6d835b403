"""A draft model beside the model, both scripted: what is said never depends on it."""

from collections.abc import Sequence

import pytest
from tests.engine.local.drive import run_tasks

from corral.engine.local.backend import Chunk
from corral.engine.local.drafts.model import REST_STEPS, DraftModel
from corral.engine.local.pace import Pace
from corral.engine.local.scripted import ByteVocabulary, Script, ScriptedBackend, rambling
from corral.engine.local.task import Task
from corral.engine.local.worker import Worker
from corral.errors import EngineFailed, StartupError
from corral.events import Completion
from corral.request import Sampling


def generate(
    draft: ScriptedBackend | None, prompts: Sequence[Sequence[int]], max_tokens: int = 60
) -> tuple[list[Completion], ScriptedBackend]:
    backend = ScriptedBackend(rambling)
    model = None if draft is None else DraftModel(draft, backend)
    worker = Worker(backend, pace=Pace(30, 64), deliver=lambda _: None, drafts=False, draft_model=model)
    completions = run_tasks(
        worker, [Task(key, prompt, Sampling(), max_tokens) for key, prompt in enumerate(prompts)]
    )
    if draft is not None:
        assert draft.cache.used_cells == 0, "the draft model's cache is not empty"
    return completions, backend


def sometimes(tokens: Sequence[int]) -> int:
    return rambling(tokens) if len(tokens) % 3 else 65


def never(tokens: Sequence[int]) -> int:
    return 65


PROMPTS = [list(range(10)), list(range(100, 250)), [7]]


@pytest.mark.parametrize("script", [rambling, sometimes, never])
def test_what_is_said_does_not_depend_on_the_draft_model(script: Script) -> None:
    plain, _ = generate(None, PROMPTS)
    drafted, _ = generate(ScriptedBackend(script), PROMPTS)
    assert [c.text for c in drafted] == [c.text for c in plain]


def test_a_model_that_guesses_right_saves_steps() -> None:
    _, plain = generate(None, PROMPTS[:1])
    [completion], drafted = generate(ScriptedBackend(rambling), PROMPTS[:1])
    assert len(drafted.steps) < len(plain.steps) / 3
    usage = completion.finished.usage
    assert usage.accepted_tokens == usage.drafted_tokens > 40


def test_a_model_that_guesses_wrong_is_soon_asked_no_more() -> None:
    [completion], _ = generate(ScriptedBackend(never), PROMPTS[:1], max_tokens=REST_STEPS)
    assert completion.finished.usage.drafted_tokens < 20


def test_a_draft_model_that_fails_costs_its_drafts_and_nothing_else() -> None:
    def fail(chunks: Sequence[Chunk]) -> None:
        raise EngineFailed("no")

    plain, _ = generate(None, PROMPTS)
    drafted, _ = generate(ScriptedBackend(rambling, on_step=fail), PROMPTS)
    assert [c.text for c in drafted] == [c.text for c in plain]


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
