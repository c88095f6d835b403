"""The loop that plays loads, with a model that counts."""

from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import pytest

from tools.servers.rawload import Asked, Play, filled
from tools.servers.rawloop import Row
from tools.servers.yardstick import LoadRequest, LoadResult

STEP_S = 0.02


class Counting:
    """In place of a RawLoop: every letter is a token, and what is picked says how far its sequence is."""

    def __init__(self) -> None:
        self.steps: list[Sequence[Row]] = []
        self.now_s = 100.0
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
        assert [row.sequence for row in rows] == sorted(row.sequence for row in rows)
        self.now_s += STEP_S
        return STEP_S

    def copy(self, source: int, target: int) -> None:
        assert not self._held.get(target)
        self._held[target] = self._held[source]

    def cut(self, sequence: int, length: int) -> None:
        assert length <= self._held[sequence]
        self._held[sequence] = length

    def pick(self, outputs: int) -> list[int]:
        told = [row.position for row in self.steps[-1] if row.wants_logits]
        assert len(told) == outputs
        return told


def played(loop: Counting, request: LoadRequest, slots: int, *, is_together: bool = True) -> LoadResult:
    play = Play(cast(Any, loop), request, slots, clock=lambda: loop.now_s)
    return play.run(is_together=is_together)


def sequences(loop: Counting) -> list[list[int]]:
    """Those of each batch."""
    return [list(dict.fromkeys(row.sequence for row in rows)) for rows in loop.steps]


@pytest.mark.parametrize("is_together", [True, False])
def test_every_question_is_answered_in_full_on_the_slots_there_are(is_together: bool) -> None:
    loop = Counting()
    request = LoadRequest([letter * 700 for letter in "abcde"], [3, 1, 5, 2, 4], [(None,)] * 5, clients=3)
    result = played(loop, request, 2, is_together=is_together)
    assert result.output_tokens == 15
    assert len(result.ttft_s) == 5
    assert all(len(rows) <= 512 for rows in loop.steps)
    assert max(map(len, sequences(loop))) == 2
    assert {sequence for batch in sequences(loop) for sequence in batch} == {0, 1}


def test_those_who_decode_are_neighbours_in_the_cache() -> None:
    loop = Counting()
    count = 12
    request = LoadRequest(["abcd"] * count, [3 + n % 4 for n in range(count)], [(None,)] * count, clients=6)
    played(loop, request, 4)
    assert [0, 1, 2, 3] in sequences(loop)
    assert all(batch == sorted(batch) for batch in sequences(loop))
    assert all(max(batch) < 4 for batch in sequences(loop))


def test_who_gives_up_is_gone_before_the_next_batch_and_computes_the_rest_when_it_asks_again() -> None:
    """A slot, and somebody who asks three times; another has had enough before it begins."""
    loop = Counting()
    request = LoadRequest(
        ["a" * 1200, "b" * 600], [2, 2], [(STEP_S / 2, 1.5 * STEP_S, None), (STEP_S / 2,)], clients=2
    )
    result = played(loop, request, 1)
    assert (result.output_tokens, len(result.ttft_s)) == (2, 1)
    assert [len(rows) for rows in loop.steps] == [512, 512, 176, 1, 1], (
        "the last of a prompt is for its logits"
    )
    assert result.ttft_s == [pytest.approx(STEP_S)], "from the last try"


def test_of_more_who_ask_again_than_there_is_room_for_the_last_begins_anew() -> None:
    loop = Counting()
    texts = [letter * 1200 for letter in "abc"]
    request = LoadRequest(texts, [1, 1, 1], [(STEP_S / 2, None), (1.5 * STEP_S, None), (None,)], clients=3)
    result = played(loop, request, 1)
    assert len(result.ttft_s) == 3
    prompts = "".join(chr(row.token) for rows in loop.steps for row in rows)
    assert [prompts.count(letter) for letter in "abc"] == [1200, 1200 + 512, 1200]


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
