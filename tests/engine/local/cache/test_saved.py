"""What is saved, what it replaces, and what goes for it."""

import numpy as np

from corral.engine.local.cache.operations import Drop, Save
from corral.engine.local.cache.saved import MOST_STATES, SavedStates
from corral.engine.local.lane import Tokens


def tokens(*parts: range) -> Tokens:
    return np.array([token for part in parts for token in part], np.int32)


def test_what_is_there_already_is_not_saved_again() -> None:
    saved = SavedStates(1000, can_cut=True)
    assert saved.save(1, tokens(range(50))) == [Save(1, 0)]
    assert saved.save(2, tokens(range(30))) == []


def test_what_is_longer_takes_the_place_of_its_beginnings() -> None:
    saved = SavedStates(1000, can_cut=True)
    saved.save(1, tokens(range(30)))
    saved.save(2, tokens(range(20), range(100, 110)))
    assert saved.save(3, tokens(range(50))) == [Drop(0), Save(3, 2)]
    assert (list(saved), saved.total) == ([1, 2], 80)


def test_where_a_state_cannot_be_cut_each_length_is_of_use() -> None:
    saved = SavedStates(1000, can_cut=False)
    operations = [saved.save(own, tokens(range(length))) for own, length in ((1, 30), (2, 50), (3, 20))]
    assert operations == [[Save(1, 0)], [Save(2, 1)], [Save(3, 2)]]


def test_the_oldest_go_for_the_newest() -> None:
    saved = SavedStates(100, can_cut=True)
    operations = [saved.save(own, tokens(range(1000 * own, 1000 * own + 40))) for own in range(3)]
    assert operations == [[Save(0, 0)], [Save(1, 1)], [Save(2, 2), Drop(0)]]
    assert saved.save(9, tokens(range(9000, 9101))) == [], "what is too long costs nobody its place"


def test_what_is_pinned_stays_whatever_comes() -> None:
    saved = SavedStates(100, can_cut=True)
    saved.save(1, tokens(range(60)))
    saved.save(2, tokens(range(1000, 1030)))
    saved.pin(0)
    assert saved.save(3, tokens(range(2000, 2040))) == [Save(3, 2), Drop(1)]
    assert saved.save(4, tokens(range(3000, 3050))) == [], "there is no room beside it"
    assert saved.save(5, tokens(range(60), range(500, 505))) == []
    saved.unpin(0)
    assert saved.save(6, tokens(range(4000, 4040))) == [Save(6, 3), Drop(2)], "it was used just now"


def test_what_is_pinned_is_not_replaced_by_what_is_longer() -> None:
    saved = SavedStates(200, can_cut=True)
    saved.save(1, tokens(range(60)))
    saved.pin(0)
    assert saved.save(2, tokens(range(90))) == [Save(2, 1)]
    assert list(saved) == [0, 1]


def test_a_state_that_is_taken_makes_room_at_once() -> None:
    saved = SavedStates(100, can_cut=True)
    saved.save(1, tokens(range(60)))
    assert saved.take(0) == Drop(0)
    assert saved.save(2, tokens(range(1000, 1100))) == [Save(2, 1)]


def test_there_are_few_enough_to_be_compared() -> None:
    saved = SavedStates(10**9, can_cut=True)
    for own in range(MOST_STATES + 20):
        saved.save(own, tokens(range(1000 * own, 1000 * own + 10)))
    assert len(saved) == MOST_STATES
    assert next(iter(saved)) == 20
