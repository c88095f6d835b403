"""Prompt lookup by itself: where it looks, how much it dares, and when it stops."""

import random

from corral.engine.local.drafts.lookup import (
    LONG_MATCH_TOKENS,
    LONGEST_DRAFT_TOKENS,
    PromptLookup,
    draft_budget,
)


def test_what_followed_the_longest_match_is_proposed_not_what_followed_the_last() -> None:
    tokens = [1, 2, 3, 4, 5, 60, 61, 9, 3, 4, 5, 70, 71, 1, 2, 3, 4, 5]
    assert PromptLookup(tokens).propose(2) == [60, 61]


def test_nothing_is_proposed_without_a_match() -> None:
    assert PromptLookup([1, 2]).propose(8) == []
    assert PromptLookup(list(range(50))).propose(8) == []
    assert PromptLookup([1, 2, 3, 9, 7, 2, 3]).propose(8) == [], "two tokens are no match"


def test_a_draft_grows_with_success_up_to_its_bound() -> None:
    tokens = [*range(100), 50, 51, 52]
    lookup = PromptLookup(tokens)
    sizes = []
    for _ in range(12):
        draft = lookup.propose(100)
        sizes.append(len(draft))
        lookup.observe(len(draft), len(draft))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == LONGEST_DRAFT_TOKENS
    assert len(lookup.propose(3)) == 3


def test_a_text_that_repeats_itself_is_drafted_past_its_own_end() -> None:
    lookup = PromptLookup([9, *[1, 2, 3, 4] * 4])
    for _ in range(20):
        lookup.observe(3, 3)
    assert lookup.propose(11) == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3]


def test_a_draft_is_as_long_as_pays_best() -> None:
    sure, unsure = PromptLookup([*range(100), 50, 51, 52]), PromptLookup([*range(100), 50, 51, 52])
    for _ in range(4):
        sure.observe(4, 4)
        unsure.observe(4, 1)
    assert len(sure.propose(15)) == 15
    assert len(sure.propose(6)) == 3, "five to seven rows cost more than eight"
    assert len(unsure.propose(15)) == 1


def test_after_failures_only_a_long_match_is_followed() -> None:
    short, long = PromptLookup([*range(100), 50, 51, 52]), PromptLookup([*range(100), *range(50, 60)])
    assert LONG_MATCH_TOKENS <= 10
    for lookup in (short, long):
        for _ in range(10):
            lookup.observe(4, 0)
    assert short.propose(8) == []
    assert long.propose(8) == [60]


def test_random_text_is_given_up_soon() -> None:
    """A step in which a draft failed is a step wasted in part: over 2,000 tokens there must be few."""
    source = random.Random(1)
    tokens = [source.randrange(4) for _ in range(50)]
    lookup = PromptLookup(tokens)
    drafted = 0
    for _ in range(2000):
        token = source.randrange(4)
        if draft := lookup.propose(8):
            drafted += len(draft)
            accepted = int(draft[0] == token)
            lookup.observe(len(draft), accepted)
        tokens.append(token)
    assert drafted < 100


def test_a_loaded_batch_carries_no_drafts() -> None:
    assert [draft_budget(decoding) for decoding in (1, 4, 8, 16)] == [15, 9, 0, 0]
