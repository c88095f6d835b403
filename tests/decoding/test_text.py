"""Token bytes to events: what a client reads must not depend on where the tokens were cut."""

import codecs
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from corral.decoding import TextDecoder
from corral.events import BlockClosed, BlockDelta, BlockOpened, Event, TokenLogprob

# Whole characters of every UTF-8 length, their fragments, and bytes that are never UTF-8.
whole = [b"", b"a", b"b", b"ab", b" ", "é".encode(), "€".encode(), "🦙".encode()]
broken = [
    b"\xc3",
    b"\xa9",
    b"\xe2\x82",
    b"\xac",
    b"\xf0\x9f",
    b"\xa6\x99",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xc0\x80",
]
fragments = st.sampled_from([*whole, *broken])
pieces_lists = st.lists(fragments, max_size=12)
stop_tuples = st.lists(st.text(alphabet="ab é€🦙\ufffd", min_size=1, max_size=3), max_size=3).map(tuple)


def decode(
    pieces: list[bytes], stops: tuple[str, ...] = (), logprobs: bool = False
) -> tuple[list[Event], str | None]:
    """All events, with token number i carrying -i as its logprob, and the stop string."""
    decoder = TextDecoder(stops)
    events: list[Event] = []
    for number, piece in enumerate(pieces):
        events += decoder.feed(piece, TokenLogprob(piece, -float(number)) if logprobs else None)
    events += decoder.finish()
    return events, decoder.stopped


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, BlockDelta))


def tokens_of(events: list[Event]) -> list[int]:
    """The numbers of the tokens whose logprobs were shown, in order."""
    deltas = [event for event in events if isinstance(event, BlockDelta)]
    return [int(-logprob.logprob) for delta in deltas for logprob in delta.logprobs]


def starts_of(pieces: list[bytes]) -> list[int]:
    """For each token, how many characters were complete before it."""
    utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
    starts = [0]
    for piece in pieces:
        starts.append(starts[-1] + len(utf8.decode(piece)))
    return starts[:-1]


def search(whole: bytes, stops: tuple[str, ...]) -> tuple[str, str | None]:
    text = whole.decode("utf-8", "replace")
    ends = [(text.index(stop) + len(stop), text.index(stop), stop) for stop in stops if stop in text]
    if not ends:
        return text, None
    _, start, stop = min(ends)
    return text[:start], stop


@given(pieces_lists, stop_tuples)
@example([b"\xe2\x82"], ("\ufffd",))
def test_any_chunking_equals_decoding_the_whole(pieces: list[bytes], stops: tuple[str, ...]) -> None:
    events, stopped = decode(pieces, stops)
    assert (text_of(events), stopped) == search(b"".join(pieces), stops)


@given(st.binary(max_size=40), st.lists(st.integers(0, 40), max_size=8))
def test_cutting_arbitrary_bytes_changes_nothing(whole: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(whole)]
    pieces = [whole[start:end] for start, end in pairwise(edges)]
    events, _ = decode(pieces)
    assert text_of(events) == whole.decode("utf-8", "replace")


@given(pieces_lists, stop_tuples)
def test_events_form_one_block_or_none(pieces: list[bytes], stops: tuple[str, ...]) -> None:
    events, _ = decode(pieces, stops, logprobs=True)
    if not text_of(events):
        assert events == []
        return
    assert events[0] == BlockOpened(0, "text")
    assert events[-1] == BlockClosed(0)
    assert all(isinstance(event, BlockDelta) for event in events[1:-1])


@given(pieces_lists, stop_tuples)
def test_every_token_is_shown_with_its_text_or_swallowed_with_it(
    pieces: list[bytes], stops: tuple[str, ...]
) -> None:
    events, stopped = decode(pieces, stops, logprobs=True)
    chars = len(text_of(events))
    if stopped is None:
        shown = list(range(len(pieces))) if chars else []
    else:
        shown = [number for number, start in enumerate(starts_of(pieces)) if start < chars]
    assert tokens_of(events) == shown


@given(pieces_lists, stop_tuples)
def test_a_token_comes_with_the_first_character_that_needs_it(
    pieces: list[bytes], stops: tuple[str, ...]
) -> None:
    events, _ = decode(pieces, stops, logprobs=True)
    starts = starts_of(pieces)
    shown_chars = 0
    for delta in events:
        if isinstance(delta, BlockDelta) and delta.text:
            chars = range(shown_chars, shown_chars + len(delta.text))
            assert all(starts[number] in chars for number in tokens_of([delta]))
            shown_chars += len(delta.text)


def test_a_character_split_between_tokens_waits_until_it_is_whole() -> None:
    decoder = TextDecoder(())
    first, second = TokenLogprob(b"\xf0\x9f", -0.1), TokenLogprob(b"\xa6\x99!", -0.2)
    assert decoder.feed(b"\xf0\x9f", first) == []
    assert decoder.feed(b"\xa6\x99!", second) == [
        BlockOpened(0, "text"),
        BlockDelta(0, "🦙!", (first, second)),
    ]
    assert decoder.finish() == [BlockClosed(0)]


def test_an_incomplete_character_at_the_end_is_a_replacement_character() -> None:
    events, stopped = decode([b"ok", b"\xf0\x9f"])
    assert (text_of(events), stopped) == ("ok\ufffd", None)


def test_a_partial_stop_string_at_the_end_is_text() -> None:
    events, stopped = decode([b"a", b"\n"], ("\n\n",))
    assert (text_of(events), stopped) == ("a\n", None)


def test_a_stop_string_ends_everything() -> None:
    decoder = TextDecoder(("END",))
    opened = [BlockOpened(0, "text"), BlockDelta(0, "so E")]
    assert decoder.feed(b"so EEN", None) == opened
    assert decoder.stopped is None
    assert decoder.feed(b"D and more", None) == []
    assert decoder.stopped == "END"
    assert decoder.feed(b"ignored", None) == []
    assert decoder.finish() == [BlockClosed(0)]


def test_an_answer_of_nothing_but_a_stop_string_has_no_block() -> None:
    assert decode([b"E", b"ND"], ("END",), logprobs=True) == ([], "END")


def test_a_token_without_bytes_at_the_end_keeps_its_logprob() -> None:
    control = TokenLogprob(b"", -1.0)
    events, _ = decode([b"a", b""], logprobs=True)
    assert events[-2:] == [BlockDelta(0, "", (control,)), BlockClosed(0)]
