from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tools.fakeserver import HEAD, LAST, chunked

from tools.clients.framing import FramingError, ResponseReader, request_bytes

WIRE = HEAD + chunked(b"data: one\n\n") + chunked(b"two" * 100) + LAST


@given(st.lists(st.integers(0, len(WIRE)), max_size=8))
def test_chunks_read_the_same_wherever_they_are_cut(cuts: list[int]) -> None:
    reader = ResponseReader()
    marks = [0, *sorted(cuts), len(WIRE)]
    body = b"".join(reader.feed(WIRE[a:b]) for a, b in pairwise(marks) if b > a)
    assert reader.is_complete
    assert reader.is_event_stream
    assert body == b"data: one\n\n" + b"two" * 100


def test_length_and_excess() -> None:
    reader = ResponseReader()
    body = reader.feed(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\nno")
    assert (reader.status, body, reader.is_complete) == (429, b"no", True)
    reader.feed(b"HTTP/1.1 400")
    assert reader.excess == b"HTTP/1.1 400"


def test_interim_responses_are_skipped() -> None:
    reader = ResponseReader()
    reader.feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
    assert (reader.status, reader.is_complete) == (204, True)


def test_until_close() -> None:
    reader = ResponseReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\nabc") == b"abc"
    assert not reader.is_complete
    reader.feed_eof()
    assert reader.is_complete


@pytest.mark.parametrize("end", [10, len(HEAD) + 3, len(WIRE) - 3])
def test_an_early_end_is_an_error(end: int) -> None:
    reader = ResponseReader()
    reader.feed(WIRE[:end])
    with pytest.raises(FramingError, match="closed in"):
        reader.feed_eof()


@pytest.mark.parametrize("wire", [b"SSH-2.0-x\r\n\r\n", HEAD + b"zz\r\n", HEAD + b"2\r\nabcd"])
def test_what_is_not_http_is_an_error(wire: bytes) -> None:
    with pytest.raises(FramingError):
        ResponseReader().feed(wire)


def test_request() -> None:
    assert request_bytes("POST", "/x", {"host": "h"}, b"ab") == (
        b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nab"
    )
