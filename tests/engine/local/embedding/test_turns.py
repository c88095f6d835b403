"""Which inputs share a step, and what vectors come of their parts."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.engine.local.backend import Pooling
from corral.engine.local.embedding.turns import Embedding, Piece, Turns, shares, shortened
from corral.engine.local.scripted import ScriptedBackend, ScriptedEmbedder, embeds
from corral.engine.local.task import EmbedTask

DIMENSIONS = 8


def turns_of(*lengths: Sequence[int], **shape: object) -> tuple[Turns, list[Embedding]]:
    """A line of tasks of inputs of these lengths."""
    turns = Turns(embeds(**shape))  # type: ignore[arg-type]
    added = [
        turns.add(
            EmbedTask(key, [[key * 1000 + number] * length for number, length in enumerate(own)], DIMENSIONS),
            0.0,
        )
        for key, own in enumerate(lengths)
    ]
    return turns, added


def taken(pieces: Sequence[Piece]) -> dict[int, list[int]]:
    """How many tokens of its inputs each task has in a step, piece by piece."""
    found: dict[int, list[int]] = {}
    for piece in pieces:
        found.setdefault(piece.embedding.key, []).append(len(piece.chunk.tokens))
    return found


def computed(turns: Turns, pieces: Sequence[Piece]) -> None:
    """As if a step had been computed, with vectors of no interest."""
    for piece in pieces:
        piece.embedding.take(piece, np.ones(DIMENSIONS, np.float32), turns.shape.pooling)
        if piece.embedding.is_whole:
            turns.remove(piece.embedding)


def test_many_small_inputs_go_together() -> None:
    turns, _ = turns_of([5] * 10)
    assert taken(turns.plan(64)) == {0: [5] * 10}


def test_a_step_has_no_more_inputs_than_the_embedder_takes() -> None:
    turns, _ = turns_of([5] * 10, sequences=4)
    assert taken(turns.plan(64)) == {0: [5] * 4}


def test_a_request_of_many_texts_does_not_keep_one_of_a_single_text_waiting() -> None:
    turns, _ = turns_of([10] * 100, [30])
    assert taken(turns.plan(64)) == {0: [10, 10, 10, 4], 1: [30]}


def test_an_input_longer_than_a_step_is_split_and_its_cells_are_held_meanwhile() -> None:
    turns, (long, second) = turns_of([200], [100], cells=256)
    pieces = turns.plan(64)
    assert taken(pieces) == {0: [64]}, "the second waits for cells"
    computed(turns, pieces)
    assert (long.held_cells, second.held_cells) == (200, 0)


def test_who_waits_for_cells_is_not_overtaken_for_ever() -> None:
    turns, (_, waiting, *_) = turns_of([200], [100], *([[20] * 50] * 3), cells=256)
    for _ in range(40):
        computed(turns, turns.plan(64))
    assert waiting.is_whole


def test_what_cannot_be_split_goes_whole_or_waits_until_it_is_first() -> None:
    shape = {"can_split": False, "batch_tokens": 64, "input_tokens": 64, "cells": 64}
    turns, _ = turns_of([40, 40, 40], [40], **shape)
    steps = []
    while turns:
        pieces = turns.plan(64)
        steps.append(taken(pieces))
        computed(turns, pieces)
    assert steps == [{0: [40]}, {1: [40]}, {0: [40]}, {0: [40]}]


def test_what_cannot_be_split_does_not_starve_behind_small_ones() -> None:
    shape = {"can_split": False, "batch_tokens": 64, "input_tokens": 64, "cells": 64}
    turns, (large, *_) = turns_of([50, 50], [4] * 500, [4] * 500, **shape)
    first = turns.plan(64)
    assert taken(first) == {0: [50], 1: [4], 2: [4]}, "the others share what it leaves"
    computed(turns, first)
    steps = 1
    while not large.is_whole:
        computed(turns, turns.plan(64))
        steps += 1
    assert steps == 3, "it is first again as soon as the others have been served"


def test_a_step_that_came_to_nothing_is_planned_again() -> None:
    turns, _ = turns_of([5, 5, 100], [7])
    assert sorted(map(str, turns.plan(64))) == sorted(map(str, turns.plan(64)))


def test_who_leaves_frees_its_sequence_and_its_cells() -> None:
    turns, (long, other) = turns_of([200], [200], cells=256, sequences=1)
    computed(turns, turns.plan(64))
    assert not other.held_cells
    turns.remove(long)
    assert taken(turns.plan(64)) == {1: [64]}


@pytest.mark.parametrize(
    ("budget", "wanted", "expected"),
    [
        (10, [100, 100], [5, 5]),
        (10, [2, 100], [2, 8]),
        (11, [100, 100], [6, 5]),
        (2, [9, 9, 9], [1, 1, 0]),
        (50, [3, 4], [3, 4]),
        (50, [], []),
    ],
)
def test_a_budget_is_shared_in_equal_parts_but_for_who_wants_less(
    budget: int, wanted: list[int], expected: list[int]
) -> None:
    assert shares(budget, wanted) == expected


def test_a_shortened_vector_has_length_one_again() -> None:
    vector = np.array([3.0, 4.0, 12.0])
    assert shortened(vector, 2).tolist() == pytest.approx([0.6, 0.8])
    assert shortened(vector, 3).tolist() == pytest.approx([3 / 13, 4 / 13, 12 / 13])
    assert shortened(np.zeros(3), 3).tolist() == [0, 0, 0]


LENGTHS = st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=6), min_size=1, max_size=5)


@given(
    lengths=LENGTHS,
    budgets=st.lists(st.integers(1, 80), min_size=1, max_size=10),
    pooling=st.sampled_from(["mean", "cls", "last"]),
    can_split=st.booleans(),
)
def test_whatever_shares_its_steps_an_input_has_the_vector_it_has_alone(
    lengths: list[list[int]], budgets: list[int], pooling: Pooling, can_split: bool
) -> None:
    shape = embeds(
        pooling=pooling,
        dimensions=DIMENSIONS,
        input_tokens=60,
        batch_tokens=64,
        cells=64,
        can_split=can_split,
        sequences=5,
    )
    embedder = ScriptedEmbedder(ScriptedBackend(), shape)
    turns = Turns(shape)
    tasks = [
        EmbedTask(key, [[key, number, *range(length - 1)] for number, length in enumerate(own)], DIMENSIONS)
        for key, own in enumerate(lengths)
    ]
    for task in tasks:
        turns.add(task, 0.0)
    made: dict[tuple[int, int], np.ndarray] = {}
    steps = 0
    while turns:
        pieces = turns.plan(budgets[steps % len(budgets)])
        assert pieces, "every step advances"
        steps += 1
        for piece, vector in zip(pieces, embedder.embed([piece.chunk for piece in pieces]), strict=True):
            embedding = piece.embedding
            index = embedding.index
            whole = embedding.take(piece, vector, pooling)
            if whole is not None:
                embedder.forget(piece.chunk.sequence)
                made[embedding.key, index] = whole
            if embedding.is_whole:
                turns.remove(embedding)
    assert embedder.held_tokens == 0
    for task in tasks:
        for number, tokens in enumerate(task.inputs):
            own = [embedder.token_vector(tokens[: end + 1]) for end in range(len(tokens))]
            alone = shortened(embedder.pooled(own), DIMENSIONS)
            assert made[task.key, number] == pytest.approx(alone, abs=1e-5)
