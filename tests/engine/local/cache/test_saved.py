"""What is saved, what it replaces, and what goes for it."""

import numpy as np
import pytest

from corral.engine.local.cache.operations import Drop, MemoryOperation, Save
from corral.engine.local.cache.prefixes import Tokens
from corral.engine.local.cache.saved import MOST_STATES, SavedStates


@pytest.fixture
def memory() -> list[MemoryOperation]:
    return []


def tokens(*parts: range) -> Tokens:
    return np.array([token for part in parts for token in part], np.int32)


def test_what_is_there_already_is_not_saved_again(memory: list[MemoryOperation]) -> None:
    saved = SavedStates(1000, can_cut=True, memory=memory)
    saved.save(1, tokens(range(50)))
    saved.save(2, tokens(range(30)))
    assert memory == [Save(1, 0)]


def test_what_is_longer_takes_the_place_of_its_beginnings(memory: list[MemoryOperation]) -> None:
    saved = SavedStates(1000, can_cut=True, memory=memory)
    saved.save(1, tokens(range(30)))
    saved.save(2, tokens(range(20), range(100, 110)))
    saved.save(3, tokens(range(50)))
    assert memory == [Save(1, 0), Save(2, 1), Drop(0), Save(3, 2)]
    assert (list(saved), saved.total) == ([1, 2], 80)


def test_where_a_state_cannot_be_cut_each_length_is_of_use(memory: list[MemoryOperation]) -> None:
    saved = SavedStates(1000, can_cut=False, memory=memory)
    saved.save(1, tokens(range(30)))
    saved.save(2, tokens(range(50)))
    saved.save(3, tokens(range(20)))
    assert memory == [Save(1, 0), Save(2, 1), Save(3, 2)]


def test_the_oldest_go_for_the_newest(memory: list[MemoryOperation]) -> None:
    saved = SavedStates(100, can_cut=True, memory=memory)
    for own in range(3):
        saved.save(own, tokens(range(1000 * own, 1000 * own + 40)))
    assert memory == [Save(0, 0), Save(1, 1), Save(2, 2), Drop(0)]
    saved.save(9, tokens(range(9000, 9101)))
    assert memory[-1] == Drop(0), "what is too long by itself costs nobody his place"


def test_there_are_few_enough_to_be_compared(memory: list[MemoryOperation]) -> None:
    saved = SavedStates(10**9, can_cut=True, memory=memory)
    for own in range(MOST_STATES + 20):
        saved.save(own, tokens(range(1000 * own, 1000 * own + 10)))
    assert len(saved) == MOST_STATES
    assert next(iter(saved)) == 20
