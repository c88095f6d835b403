"""What is told of a prompt's tokens is what was told when the model said them itself."""

import pytest
from tests.engine.local.drive import run_tasks

from corral.engine.local.llama.backend import LlamaBackend
from corral.engine.local.options import EngineOptions
from corral.engine.local.task import Task
from corral.engine.local.worker import Worker
from corral.request import Sampling

GREEDY = Sampling(temperature=0.0)


def test_scores_of_an_answer_read_again_are_those_of_its_making(llama: LlamaBackend) -> None:
    vocabulary = llama.model.vocabulary
    prompt = vocabulary.tokenize("The river ran past the old mill, and every morning", parse_control=False)
    worker = Worker(llama, EngineOptions(slots=2), deliver=lambda _: None)
    [said] = run_tasks(worker, [Task(1, prompt, GREEDY, 60, top_logprobs=2)])
    spoken = [token for block in said.blocks for token in block.logprobs]
    again = prompt + [vocabulary.pieces.index(token.raw) for token in spoken]
    [scored] = run_tasks(worker, [Task(2, again, GREEDY, 1, top_logprobs=2, scores_prompt=True)])
    read = scored.prompt_logprobs
    assert [token.raw for token in read] == [vocabulary.pieces[token] for token in again]
    for made, told in zip(spoken, read[len(prompt) :], strict=True):
        assert told.logprob == pytest.approx(made.logprob, abs=0.3)
        assert told.top[0].logprob >= told.logprob
