from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from corral.engine.local.cache.prefixes import PrefixIndex, common_prefix, may_share_more
from corral.engine.local.lane import Tokens

texts = st.lists(st.integers(0, 2), max_size=6)


def tokens(text: Sequence[int]) -> Tokens:
    return np.array(text, np.int32)


@given(st.lists(texts, max_size=6), texts, st.booleans())
def test_the_longest_prefix_is_found_and_of_several_the_one_used_last(
    kept: list[list[int]], text: list[int], whole_only: bool
) -> None:
    index = PrefixIndex()
    for entry, own in enumerate(kept):
        index.add(entry, tokens(own))
    lengths = {entry: common_prefix(tokens(own), tokens(text)) for entry, own in enumerate(kept)}
    usable = {
        entry: length
        for entry, length in lengths.items()
        if length and (not whole_only or length == len(kept[entry]))
    }
    expected = max(usable.items(), key=lambda item: (item[1], item[0]), default=None)
    assert index.longest(tokens(text), whole_only=whole_only) == expected


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
