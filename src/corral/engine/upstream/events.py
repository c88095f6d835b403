"""Server-sent events, read as they come: whole ones out, of bytes in pieces of any size.

Only their data matters here. Comments keep a connection alive on somebody else's clock: they are consumed.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from typing import Final

EVENT_BYTES: Final = 2**20
"""Of one event, at most."""
_BOM = b"\xef\xbb\xbf"


class EventTooLarge(Exception):
    """An event, or a line of it, is past the limit."""


class EventReader:
    """Reads one stream. It holds no more than `limit_bytes` of an event that is not whole."""

    __slots__ = ("_data", "_ended_with_cr", "_held_bytes", "_is_first", "_limit_bytes", "_line")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._line = bytearray()
        self._data: list[bytes] = []
        self._held_bytes = 0
        self._is_first = True
        self._ended_with_cr = False

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of the events that end in it; raises EventTooLarge."""
        if not piece:
            return []
        if self._ended_with_cr and piece.startswith(b"\n"):
            piece = piece[1:]
        self._ended_with_cr = piece.endswith(b"\r")
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *ends, rest = piece.split(b"\n")
        whole: list[bytes] = []
        for end in ends:
            line = end
            if self._line:
                line = bytes(self._line) + end
                self._line.clear()
            self._take(line, whole)
        self._line += rest
        if self._held_bytes + len(self._line) > self._limit_bytes:
            raise EventTooLarge
        return whole

    def _take(self, line: bytes, whole: list[bytes]) -> None:
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                whole.append(b"\n".join(self._data))
                self._data.clear()
                self._held_bytes = 0
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._held_bytes += len(value) + 1
            if self._held_bytes > self._limit_bytes:
                raise EventTooLarge
