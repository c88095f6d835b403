"""The loop that plays loads, with a model that counts."""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import pytest

from tools.servers.rawload import Asked, Play, filled
from tools.servers.rawloop import Row
from tools.servers.yardstick import LoadRequest


class Counting:
    """In place of a RawLoop: every letter is a token, and what is picked says how far its sequence is."""

    def __init__(self) -> None:
        self.steps: list[Sequence[Row]] = []
        self.step_s = 0.0
        self._held: dict[int, int] = {}

    def tokenize(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def forget(self, sequence: int = -1) -> None:
        if sequence < 0:
            self._held.clear()
        else:
            self._held.pop(sequence, None)

    def decode(self, rows: Sequence[Row]) -> float:
        for row in rows:
            assert row.position == self._held.get(row.sequence, 0), "each token once, in order"
            self._held[row.sequence] = row.position + 1
        self.steps.append(rows)
        time.sleep(self.step_s)
        return self.step_s

    def cut(self, sequence: int, length: int) -> None:
        assert length <= self._held[sequence]
        self._held[sequence] = length

    def pick(self, outputs: int) -> list[int]:
        told = [row.position for row in self.steps[-1] if row.wants_logits]
        assert len(told) == outputs
        return told


@pytest.mark.parametrize("is_together", [True, False])
def test_every_question_is_answered_in_full_on_the_slots_there_are(is_together: bool) -> None:
    loop = Counting()
    request = LoadRequest([letter * 700 for letter in "abcde"], [3, 1, 5, 2, 4], [(None,)] * 5, clients=3)
    result = Play(cast(Any, loop), request, 2).run(is_together=is_together)
    assert result.output_tokens == 15
    assert len(result.ttft_s) == 5
    assert all(len(rows) <= 512 for rows in loop.steps)
    assert len({row.sequence for row in loop.steps[0]}) <= 2


def test_who_gives_up_is_gone_before_the_next_batch_and_computes_the_rest_when_it_asks_again() -> None:
    """A slot, and somebody who asks three times; then one who has had enough before it begins."""
    loop = Counting()
    texts = ["a" * 1200, "b" * 600]
    request = LoadRequest(texts, [2, 2], [(0.0, 0.03, None), (0.0,)], clients=2)
    loop.step_s = 0.02
    result = Play(cast(Any, loop), request, 1).run(is_together=True)
    assert (result.output_tokens, len(result.ttft_s)) == (2, 1)
    assert [len(rows) for rows in loop.steps] == [512, 512, 176, 1]
    assert result.ttft_s[0] < 0.03, "from the last try"


def test_who_waits_with_something_computed_makes_room_for_who_begins() -> None:
    loop = Counting()
    request = LoadRequest(
        ["a" * 1200, "b" * 1200, "c" * 1200], [1, 1, 1], [(0.01, None), (0.01, None), (None,)], clients=3
    )
    loop.step_s = 0.02
    result = Play(cast(Any, loop), request, 1).run(is_together=True)
    assert len(result.ttft_s) == 3
    assert len({row.sequence for rows in loop.steps for row in rows}) == 2


def test_answers_wait_for_prompts_unless_both_are_together() -> None:
    answer = Asked([1, 2], 5, deque([None]), sequence=0, computed=2, last=9, told_s=[0.1])
    prompt = Asked([3] * 600, 5, deque([None]), sequence=1)
    together = filled([answer, prompt], is_together=True)
    assert [(asked, len(rows)) for asked, rows in together] == [(answer, 1), (prompt, 511)]
    apart = filled([answer, prompt], is_together=False)
    assert [(asked, len(rows)) for asked, rows in apart] == [(prompt, 512)]
    prompt.computed = 512
    _, rows = filled([answer, prompt], is_together=False)[0]
    assert [row.wants_logits for row in rows] == [False] * 87 + [True]
