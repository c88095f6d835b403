"""Cutting HTTP/2 frames: nothing lost, nothing counted wrong, however the bytes come."""

from hypothesis import given
from hypothesis import strategies as st

from corral.transport.frames import FRAME_BYTES, PIECE_FRAMES, FrameCutter, Piece

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, length: int = 0, flags: int = 0) -> bytes:
    return length.to_bytes(3, "big") + bytes((kind, flags)) + b"\0\0\0\1" + b"x" * length


EMPTY_DATA, END, DATA, HEADERS = frame(0), frame(0, flags=1), frame(0, 5), frame(1, 5)
SETTINGS, PING, WINDOW_UPDATE, UNKNOWN = frame(4), frame(6, 8), frame(8, 4), frame(200, 30)
IDLE = {EMPTY_DATA, SETTINGS, PING, WINDOW_UPDATE, UNKNOWN}

Frames = st.lists(st.sampled_from([EMPTY_DATA, END, DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE, UNKNOWN]))


def cut(*reads: bytes) -> list[Piece]:
    cutter = FrameCutter()
    return [piece for read in reads for piece in cutter.cut(read)]


@given(Frames, st.lists(st.integers(1, 60), min_size=1))
def test_pieces_are_what_came_and_every_idle_frame_is_counted_once(
    frames: list[bytes], sizes: list[int]
) -> None:
    wire = PREFACE + b"".join(frames)
    reads: list[bytes] = []
    at = 0
    while at < len(wire):
        size = sizes[len(reads) % len(sizes)]
        reads.append(wire[at : at + size])
        at += size
    pieces = cut(*reads)
    assert b"".join(piece.data for piece in pieces) == wire
    assert all(piece.data for piece in pieces)
    assert sum(piece.idle_frames for piece in pieces) == sum(frame in IDLE for frame in frames)


@given(Frames)
def test_no_piece_has_many_frames(frames: list[bytes]) -> None:
    for piece in cut(PREFACE, *[b"".join(frames)]):
        assert piece.idle_frames <= PIECE_FRAMES
        assert len(piece.data) <= PIECE_FRAMES * max(map(len, [*frames, PREFACE]))


def test_a_read_full_of_body_stays_in_one_piece() -> None:
    """An upload is parsed as it was before: nothing of it is cut small."""
    body = b"".join(frame(0, FRAME_BYTES) for _ in range(4))
    assert cut(PREFACE, body)[1:] == [Piece(body, 0)]


def test_a_frame_that_is_too_long_is_seen_by_its_first_bytes() -> None:
    [piece] = cut(PREFACE + PING + frame(0, FRAME_BYTES + 1)[:9] + b"more" + PING)
    assert piece.is_too_long
    assert piece.data == PREFACE + PING + frame(0, FRAME_BYTES + 1)[:9]
