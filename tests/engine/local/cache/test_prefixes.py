from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.engine.local.cache import prefixes
from corral.engine.local.cache.prefixes import PrefixIndex, common_prefix, may_share_more
from corral.engine.local.lane import Tokens

texts = st.lists(st.integers(0, 2), max_size=6)


def tokens(text: Sequence[int]) -> Tokens:
    return np.array(text, np.int32)


@given(st.lists(st.tuples(st.sampled_from(["add", "touch", "drop"]), texts, st.integers(0, 9))), texts)
def test_what_is_found_is_what_comparing_with_every_entry_finds(
    done: list[tuple[str, list[int], int]], text: list[int]
) -> None:
    index, kept = PrefixIndex(), dict[int, list[int]]()  # in the order of their last use
    for number, (what, own, place) in enumerate(done):
        if what == "add":
            index.add(number, tokens(own))
            kept[number] = own
        elif kept:
            entry = [*kept][place % len(kept)]
            own = kept.pop(entry)
            if what == "touch":
                index.touch(entry)
                kept[entry] = own
            else:
                index.drop(entry)
    assert [*index] == [*kept]
    assert index.total == sum(map(len, kept.values()))
    shared = {entry: common_prefix(tokens(own), tokens(text)) for entry, own in kept.items()}
    whole = {entry: length for entry, length in shared.items() if length == len(kept[entry])}
    for usable, whole_only in ((shared, False), (whole, True)):
        expected = max(reversed(usable.items()), key=lambda item: item[1], default=(0, 0))
        found = index.longest(tokens(text), whole_only=whole_only)
        assert found == (expected if expected[1] else None)
    assert index.covers(tokens(text)) == (len(text) > 0 and len(text) in shared.values())
    assert sorted(index.prefixes_of(tokens(text))) == sorted(whole)


def test_a_look_takes_as_long_however_many_entries_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = list[int]()

    def counted(a: Tokens, b: Tokens) -> int:
        looks.append(1)
        return common_prefix(a, b)

    monkeypatch.setattr(prefixes, "common_prefix", counted)
    index = PrefixIndex()
    for entry in range(200):
        index.add(entry, tokens([*range(50), 1000 + entry, *range(50)]))
    looks.clear()
    assert index.longest(tokens([*range(50), 1100, 7]), whole_only=False) == (100, 51)
    for entry in range(200):
        if entry != 100:
            index.drop(entry)
    assert index.longest(tokens([*range(50), 1100, 0, 9]), whole_only=False) == (100, 52)
    assert len(looks) == 3, "two where they part at a node, and one where nothing parts any more"


@given(texts, texts, st.integers(0, 6))
def test_who_may_not_share_more_does_not(a: list[int], b: list[int], length: int) -> None:
    if common_prefix(tokens(a), tokens(b)) > length:
        assert may_share_more(tokens(a), tokens(b), length)


def test_of_two_that_share_as_much_the_one_used_last_is_found() -> None:
    index = PrefixIndex()
    index.add(1, np.array([5, 6, 7], np.int32))
    index.add(2, np.array([5, 6, 8], np.int32))
    wanted = np.array([5, 6, 9], np.int32)
    assert index.longest(wanted, whole_only=False) == (2, 2)
    index.touch(1)
    assert index.longest(wanted, whole_only=False) == (1, 2)
