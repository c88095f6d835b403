"""The stop finder against a search of the whole text, at every way to cut it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.decoding.stops import StopFinder

# Few letters, so that stop strings overlap, repeat and contain each other.
texts = st.text(alphabet="abc", max_size=30)
stop_tuples = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), max_size=5).map(tuple)


def search(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """The rules of the module by brute force: the shown text and the stop string that ended it."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end - len(stop)], stop
    return text, None


def held_suffix(text: str, stops: tuple[str, ...]) -> str:
    """The longest suffix of `text` that is a proper prefix of a stop string."""
    for start in range(len(text)):
        if any(stop.startswith(text[start:]) and stop != text[start:] for stop in stops):
            return text[start:]
    return ""


@given(st.lists(texts, max_size=10), stop_tuples)
def test_any_chunking_equals_a_search_of_the_whole(pieces: list[str], stops: tuple[str, ...]) -> None:
    finder = StopFinder(stops)
    shown = "".join([finder.feed(piece) for piece in pieces]) + finder.finish()
    assert (shown, finder.found) == search("".join(pieces), stops)


@given(st.lists(texts, max_size=10), stop_tuples)
def test_what_ends_the_text_is_shown_with_it_where_that_is_wanted(
    pieces: list[str], stops: tuple[str, ...]
) -> None:
    finder = StopFinder(stops, shows_found=True)
    shown = "".join([finder.feed(piece) for piece in pieces]) + finder.finish()
    text, found = search("".join(pieces), stops)
    assert (shown, finder.found) == (text + (found or ""), found)


@given(texts, stop_tuples)
def test_holds_back_no_more_and_no_less_than_a_stop_string_could_need(
    text: str, stops: tuple[str, ...]
) -> None:
    finder = StopFinder(stops)
    shown = ""
    for end, character in enumerate(text, 1):
        shown += finder.feed(character)
        if finder.found is not None:
            break
        assert shown + held_suffix(text[:end], stops) == text[:end]


@pytest.mark.parametrize(
    ("stops", "text", "shown", "found"),
    [
        ((), "anything", "anything", None),
        (("STOP",), "go STOP now", "go ", "STOP"),
        (("STOP",), "go STO", "go STO", None),
        (("STOP",), "STOSTOP", "STO", "STOP"),
        (("STOP",), "STOP", "", "STOP"),
        (("abcd", "bc"), "abcd", "a", "bc"),
        (("bc", "abc"), "abc", "", "abc"),
        (("aab",), "aaaab", "aa", "aab"),
        (("\n\n", "\n"), "a\n\n", "a", "\n"),
        (("é",), "caféé", "caf", "é"),
    ],
)
def test_which_stop_string_ends_the_text(
    stops: tuple[str, ...], text: str, shown: str, found: str | None
) -> None:
    finder = StopFinder(stops)
    assert (finder.feed(text) + finder.finish(), finder.found) == (shown, found)


def test_nothing_passes_after_a_stop_string() -> None:
    finder = StopFinder(("END",))
    assert finder.feed("a END b") == "a "
    assert finder.feed(" c") == ""
    assert finder.finish() == ""


def test_text_is_shown_the_moment_it_cannot_be_a_stop_string() -> None:
    finder = StopFinder(("</answer>",))
    assert [finder.feed(piece) for piece in ("a <", "/ans", "wer", "ing <")] == ["a ", "", "", "</answering "]


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopFinder(("a", ""))
