"""Answers that real models write, with what they mean: 85 hand-checked cases in 19 formats."""

from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests import llama_models

from corral.decoding.formats.learn import Learned, learn
from corral.format_command import Case, parse_case
from corral.templates.environment import ChatTemplate

HERE = Path(__file__).parent
LINES = (HERE / "cases.jsonl").read_bytes().splitlines()
EXPECTED: dict[str, Any] = {one["id"]: one["expect"] for one in map(msgspec.json.decode, LINES)}
CASES = [msgspec.json.decode(line, type=Case) for line in LINES]


@cache
def learned_from(path: Path) -> tuple[ChatTemplate, Learned]:
    source = path.read_text(encoding="utf-8")
    template = ChatTemplate(source)
    return template, learn(template.render, source=source)


@pytest.fixture(params=CASES, ids=lambda case: case.id)
def case(request: pytest.FixtureRequest) -> Case:
    assert isinstance(request.param, Case)
    return request.param


@pytest.fixture
def learned(case: Case) -> tuple[ChatTemplate, Learned]:
    path = HERE / "templates" / case.template
    if not path.exists():
        path = llama_models.FOLDER / case.template
    if not path.exists():
        pytest.skip("the vendors' templates are not here; make test fetches them")
    return learned_from(path)


def meaning(parsed: dict[str, Any]) -> dict[str, Any]:
    """What a case compares: of a whole call its arguments, of one that was cut what had come."""
    return {
        "reasoning": parsed["reasoning"],
        "content": parsed["content"],
        "tool_calls": [_without_null_partial(call) for call in parsed["tool_calls"]],
        "malformed": parsed["malformed"],
    }


def _without_null_partial(call: dict[str, Any]) -> dict[str, Any]:
    return {key: call[key] for key in call if key != "arguments_partial" or call[key] is not None}


def test_an_answer_means_the_same_in_pieces_of_any_size(
    case: Case, learned: tuple[ChatTemplate, Learned]
) -> None:
    for size in (*range(1, min(len(case.raw), 40) + 1), len(case.raw) + 1):
        assert meaning(parse_case(case, *learned, split=size)) == EXPECTED[case.id], f"pieces of {size}"
