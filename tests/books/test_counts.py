"""The figures of a request alone: each token counted once, the prompt once for all choices."""

from corral.books.counts import Counts
from corral.events import BlockOpened, Prefill, Sampled, Started


def test_before_anything_has_happened_nothing_is_known_of_the_cache() -> None:
    counts = Counts(2)
    assert counts.cached_tokens is None
    assert (counts.prefilled_tokens, counts.completion_tokens, counts.decoded_tokens) == (0, 0, 0)


def test_what_was_cached_was_not_prefilled() -> None:
    counts = Counts(1)
    counts.prefilled(0, Prefill(6, 10, 4))
    assert (counts.cached_tokens, counts.prefilled_tokens) == (4, 2), "it is known before the first token"
    counts.started(0, Started(10, 4))
    assert counts.prefilled_tokens == 6


def test_the_prompt_counts_as_cached_as_for_the_choice_that_found_least_of_it() -> None:
    counts = Counts(2)
    counts.started(1, Started(10, 9))
    counts.started(0, Started(10, 2))
    assert (counts.cached_tokens, counts.prefilled_tokens) == (2, 8)


def test_the_first_token_of_each_choice_is_the_prefills() -> None:
    counts = Counts(3)
    for choice, tokens in ((0, 1), (0, 4), (1, 2)):
        counts.sampled(choice, Sampled(tokens))
    assert (counts.completion_tokens, counts.decoded_tokens) == (7, 5)


def test_drafts_are_counted_whether_they_were_right_or_not() -> None:
    counts = Counts(1)
    counts.sampled(0, Sampled(3, (b"a", b"b", b"c"), accepted=2))
    counts.sampled(0, Sampled(1, (b"d",)))
    assert (counts.drafted_tokens, counts.accepted_tokens, counts.completion_tokens) == (4, 2, 4)


def test_calls_that_were_taken_back_are_not_counted() -> None:
    counts = Counts(2)
    for choice in (0, 1):
        counts.opened(choice, BlockOpened(0, "tool", "c", "f"))
    counts.taken_back(1)
    counts.opened(1, BlockOpened(0, "tool", "c", "f"))
    assert counts.calls == 2
