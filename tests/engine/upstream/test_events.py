"""Server-sent events in pieces of any size."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.engine.upstream.events import EventReader, EventTooLarge

STREAM = (
    b"\xef\xbb\xbf: hello\r\n\r\ndata: one\r\ndata: two\r\n\r\nevent: ping\nid: 4\ndata:three\n\n"
    b":\n\n: keep\n\ndata: \xc3\xbc\r\rdata\n\nretry: 5\n\ndata: [DONE]\n\ndata: cut"
)
TOLD = [b"one\ntwo", b"three", "ü".encode(), b"", b"[DONE]"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_the_same_events_come_of_it_however_it_is_cut(cuts: list[int]) -> None:
    reader = EventReader(1000)
    edges = [0, *sorted(cuts), len(STREAM)]
    told: list[bytes] = []
    for begin, end in pairwise(edges):
        told += reader.feed(STREAM[begin:end])
    assert told == TOLD


def test_bytes_one_by_one_are_as_good_as_all_at_once() -> None:
    reader = EventReader(1000)
    assert [event for byte in STREAM for event in reader.feed(bytes([byte]))] == TOLD


@pytest.mark.parametrize("endless", [b"x", b": comment ", b"data: more\n"])
def test_an_event_that_does_not_end_is_given_up(endless: bytes) -> None:
    reader = EventReader(10_000)

    def feed() -> None:
        for _ in range(20_000):
            reader.feed(endless)

    with pytest.raises(EventTooLarge):
        feed()


def test_comments_without_end_take_no_memory() -> None:
    reader = EventReader(1000)
    for _ in range(10_000):
        assert reader.feed(b": still here\n\n") == []
    assert reader.feed(b"data: x\n\n") == [b"x"]
