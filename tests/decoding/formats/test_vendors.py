"""The learner on every template that llama.cpp is tested with; docs/formats.md keeps the table.

`pytest tests/decoding/formats/test_vendors.py -s` prints the table as it is now.
"""

import time
from functools import cache
from pathlib import Path

import pytest
from tests import llama_models

from corral.decoding.formats.learn import Learned, learn
from corral.format_command import kind
from corral.templates.environment import ChatTemplate

pytestmark = llama_models.needs_them

DOCS = Path(__file__).resolve().parents[3] / "docs" / "formats.md"
MOST_CPU_MS = 100

NOT_RENDERED = "calls are not rendered and nothing is said of them: our own instruction"
ROLES = "knows the roles user and assistant only: our own instruction"
WHY = {
    "HuggingFaceTB-SmolLM3-3B.jinja": NOT_RENDERED,
    "LFM2-8B-A1B.jinja": "calls are not rendered; results stand between tokens, so calls do between theirs",
    "LFM2.5-8B-A1B.jinja": "the template does not escape quotes in strings",
    "LFM2.5-Instruct.jinja": NOT_RENDERED,
    "NVIDIA-Nemotron-Nano-v2.jinja": "the template gives the text a turn of its own, in an open thought",
    "google-gemma-2-2b-it.jinja": ROLES,
    "ibm-granite-granite-3.3-2B-Instruct.jinja": "calls are not rendered; the system message names the token",
    "llama-cpp-rwkv-world.jinja": NOT_RENDERED,
    "microsoft-Phi-3.5-mini-instruct.jinja": NOT_RENDERED,
    "openai-gpt-oss-120b.jinja": "the template makes a thought of the text beside a call",
}


@cache
def learned(name: str) -> Learned:
    source = (llama_models.FOLDER / name).read_text(encoding="utf-8")
    return learn(ChatTemplate(source).render, source=source)


def names() -> list[str]:
    return [path.name for path in llama_models.templates()]


def row(name: str) -> str:
    found = learned(name)
    test = found.test
    result = f"{len(test.tried) - len(test.failed)} of {len(test.tried)}" if test.tried else ""
    kinds = "; ".join(kind(form) for form in found.format.calls)
    thought = "headers" if found.format.headers else "tags" if found.format.thought else ""
    fails = "; ".join(filter(None, (", ".join(test.failed), WHY.get(name, ""))))
    cells = (name.removesuffix(".jinja"), kinds, found.format.source, thought, result, fails)
    return f"| {' | '.join(cells)} |"


def table() -> str:
    head = (
        "| template | calls | from | thoughts | self-test | what fails, and why |",
        "|---|---|---|---|---|---|",
    )
    return "\n".join([*head, *map(row, names())]) + "\n"


def test_the_documentation_has_the_table_as_it_is() -> None:
    print(table())
    assert table() in DOCS.read_text(encoding="utf-8")


def test_all_but_a_few_templates_are_learned_from_what_they_write() -> None:
    assert len(names()) >= 70
    others = {name for name in names() if learned(name).format.source != "learned"}
    assert others <= set(WHY)
    assert len(others) <= 8


@pytest.mark.parametrize("name", names())
def test_what_is_learned_reads_back_what_the_template_writes(name: str) -> None:
    found = learned(name)
    if found.format.source == "learned":
        assert found.test.passed
        assert not found.test.failed or name in WHY


@pytest.mark.parametrize("name", names())
def test_learning_takes_less_than_a_hundred_milliseconds(name: str) -> None:
    source = (llama_models.FOLDER / name).read_text(encoding="utf-8")
    render = ChatTemplate(source).render
    taken_ms = []
    for _ in range(3):
        begun = time.process_time()
        learn(render, source=source)
        taken_ms.append((time.process_time() - begun) * 1e3)
    assert min(taken_ms) < MOST_CPU_MS
