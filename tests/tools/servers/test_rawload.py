"""The loop that plays loads, with a model that counts."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from tools.servers.rawload import Asked, filled, play
from tools.servers.rawloop import Row
from tools.servers.yardstick import LoadRequest


class Counting:
    """In place of a RawLoop: every letter is a token, and what is picked says how far its sequence is."""

    def __init__(self) -> None:
        self.steps: list[Sequence[Row]] = []
        self._held: dict[int, int] = {}

    def tokenize(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def forget(self, sequence: int = -1) -> None:
        if sequence < 0:
            self._held.clear()
        else:
            del self._held[sequence]

    def decode(self, rows: Sequence[Row]) -> float:
        for row in rows:
            assert row.position == self._held.get(row.sequence, 0), "each token once, in order"
            self._held[row.sequence] = row.position + 1
        self.steps.append(rows)
        return 0.0

    def pick(self, outputs: int) -> list[int]:
        told = [row.position for row in self.steps[-1] if row.wants_logits]
        assert len(told) == outputs
        return told


@pytest.mark.parametrize("is_together", [True, False])
def test_every_question_is_answered_in_full_on_the_slots_there_are(is_together: bool) -> None:
    loop = Counting()
    request = LoadRequest([letter * 700 for letter in "abcde"], [3, 1, 5, 2, 4], clients=3)
    result = play(cast(Any, loop), request, 2, is_together=is_together)
    assert result.output_tokens == 15
    assert len(result.ttft_s) == 5
    assert all(len(rows) <= 512 for rows in loop.steps)
    assert {row.sequence for rows in loop.steps for row in rows} == {0, 1}


def test_answers_wait_for_prompts_unless_both_are_together() -> None:
    answer = Asked([1, 2], 5, 0.0, computed=2, last=9, told_s=[0.1])
    prompt = Asked([3] * 600, 5, 0.0)
    together = filled([answer, prompt], is_together=True)
    assert [(slot, len(rows)) for slot, rows in together] == [(0, 1), (1, 511)]
    assert [(slot, len(rows)) for slot, rows in filled([answer, prompt], is_together=False)] == [(1, 512)]
    prompt.computed = 512
    _, rows = filled([answer, prompt], is_together=False)[0]
    assert [row.wants_logits for row in rows] == [False] * 87 + [True]
