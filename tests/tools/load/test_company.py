import random
from typing import Any

import pytest

from tools.clients.sse import Answer
from tools.clients.target import Target
from tools.load.company import Company


def company(**answers: Answer) -> Company:
    seen = Company(Target("127.0.0.1", 9), ["abc"], 3, random.Random(1))
    for kind, answer in answers.items():
        seen.judge(kind, 0, answer)
    return seen


def answered(text: str, ending: str = "done", **fields: Any) -> Answer:
    return Answer(pieces=[text], ending=ending, finish_reason="length", status=200, **fields)


@pytest.mark.parametrize(
    ("answer", "is_wrong"),
    [
        (answered("abc"), False),
        (answered("abd"), True),
        (answered("ab", "cut"), True),
        (answered("abc", violations=["id changed"]), True),
        (Answer(ending="refused", status=429), False),
        (Answer(ending="refused", status=500), True),
    ],
)
def test_who_stays_gets_the_reference_answer(answer: Answer, is_wrong: bool) -> None:
    assert bool(company(stay=answer).wrong) is is_wrong


def test_who_leaves_is_not_judged_by_text() -> None:
    assert company(leave=answered("a", "left"), stall=answered("a", "evicted")).wrong == []
