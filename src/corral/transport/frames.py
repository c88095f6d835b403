"""HTTP/2 frames before h2 sees them: cut into pieces that are quick to parse, and counted.

h2 parses whatever it is given in one go, and 64 KiB may hold 7,000 frames: a quarter of a second in which
nobody else is served. And it keeps a frame until it is whole, also one that says it has 16 MiB.
"""

from collections.abc import Iterator
from dataclasses import dataclass

# The longest frame we allow: HTTP/2's default, and h2's.
FRAME_BYTES = 16384

# Most frames of a piece: half a millisecond of h2's time on a slow core.
PIECE_FRAMES = 16

_PREFACE_BYTES = 24
_HEADER_BYTES = 9
_DATA, _HEADERS = 0x0, 0x1
_END_STREAM = 0x1


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a connection; a frame begins in the piece in which its header ends."""

    data: bytes
    idle_frames: int
    """How many frames begin here that carry nothing of a request."""
    is_too_long: bool = False
    """The last frame that begins here is longer than FRAME_BYTES; no piece follows."""


class FrameCutter:
    """Follows one connection's frames, from its preface on. Pure."""

    def __init__(self) -> None:
        self._left_bytes = _PREFACE_BYTES  # of the frame that has begun
        self._header = bytearray()

    def cut(self, data: bytes) -> Iterator[Piece]:
        """Cut up what has come; all pieces together are `data`, or its beginning if a frame is too long."""
        start = at = frames = idle = 0
        while at < len(data):
            if self._left_bytes:
                taken = min(self._left_bytes, len(data) - at)
                self._left_bytes -= taken
                at += taken
            else:
                taken = min(_HEADER_BYTES - len(self._header), len(data) - at)
                self._header += data[at : at + taken]
                at += taken
                if len(self._header) == _HEADER_BYTES:
                    frames += 1
                    idle += self._begin()
                    if self._left_bytes > FRAME_BYTES:
                        yield Piece(data[start:at], idle, is_too_long=True)
                        return
            if frames >= PIECE_FRAMES and not self._left_bytes and not self._header:
                yield Piece(data[start:at], idle)
                start, frames, idle = at, 0, 0
        if start < at:
            yield Piece(data[start:at], idle)

    def _begin(self) -> bool:
        """Begin the frame whose header is here; whether it carries nothing of a request."""
        header, self._header = self._header, bytearray()
        self._left_bytes = int.from_bytes(header[:3], "big")
        kind, flags = header[3], header[4]
        if kind == _DATA:
            return self._left_bytes == 0 and not flags & _END_STREAM
        return kind != _HEADERS
