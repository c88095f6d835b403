"""A sans-IO HTTP/1.1 response reader for load: bytes in, body bytes out, framing checked.

It makes no object per chunk: a client that spends as much on a token as the server does measures itself.
It reads what RFC 9112 sections 6.3 (length) and 7.1 (chunked) need, and is strict: what does not parse is
a `FramingError`.
"""

from enum import Enum, auto


class FramingError(Exception):
    """The bytes are not an HTTP/1.1 response, or ended inside one."""


class _State(Enum):
    HEAD = auto()
    CHUNK_SIZE = auto()
    CHUNK_DATA = auto()
    TRAILERS = auto()
    LENGTH = auto()
    UNTIL_CLOSE = auto()
    COMPLETE = auto()


class ResponseReader:
    """Reads one response. Interim (1xx) responses are skipped."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._state = _State.HEAD
        self._buffer = b""
        self._left_bytes = 0

    @property
    def is_complete(self) -> bool:
        return self._state is _State.COMPLETE

    @property
    def is_event_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def excess(self) -> bytes:
        """What came after the end of the response."""
        return self._buffer if self.is_complete else b""

    def feed(self, data: bytes) -> bytes:
        """Take in bytes, return the body bytes they hold. Raises FramingError."""
        self._buffer = self._buffer + data if self._buffer else data
        if self._state is _State.HEAD and not self._read_head():
            return b""
        if self._state is _State.CHUNK_SIZE or self._state is _State.CHUNK_DATA:
            return self._read_chunks()
        if self._state is _State.TRAILERS:
            self._read_trailers()
            return b""
        if self._state is _State.LENGTH:
            body, self._buffer = self._buffer[: self._left_bytes], self._buffer[self._left_bytes :]
            self._left_bytes -= len(body)
            if self._left_bytes == 0:
                self._state = _State.COMPLETE
            return body
        if self._state is _State.UNTIL_CLOSE:
            body, self._buffer = self._buffer, b""
            return body
        return b""

    def feed_eof(self) -> None:
        """The server closed. Raises FramingError when the response was not whole."""
        if self._state is _State.UNTIL_CLOSE:
            self._state = _State.COMPLETE
        if self._state is not _State.COMPLETE:
            raise FramingError(f"connection closed in {self._state.name.lower()}")

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > 65_536:
                raise FramingError("head of more than 64 KiB")
            return False
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        self._buffer = self._buffer[end + 4 :]
        version, _, rest = lines[0].partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or not rest[:3].isdigit():
            raise FramingError(f"not a status line: {lines[0][:60]!r}")
        self.status = int(rest[:3])
        self.headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }
        if 100 <= self.status < 200:
            return self._read_head()
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            self._state = _State.CHUNK_SIZE
        elif "content-length" in self.headers:
            self._left_bytes = int(self.headers["content-length"])
            self._state = _State.LENGTH if self._left_bytes else _State.COMPLETE
        elif self.status in (204, 304):
            self._state = _State.COMPLETE
        else:
            self._state = _State.UNTIL_CLOSE
        return True

    def _read_chunks(self) -> bytes:
        buffer, at = self._buffer, 0
        pieces: list[bytes] = []
        while True:
            if self._state is _State.CHUNK_SIZE:
                end = buffer.find(b"\r\n", at)
                if end < 0:
                    break
                size = buffer[at:end].split(b";", 1)[0]
                try:
                    self._left_bytes = int(size, 16)
                except ValueError:
                    raise FramingError(f"not a chunk size: {size[:20]!r}") from None
                at = end + 2
                if self._left_bytes == 0:
                    self._state = _State.TRAILERS
                    break
                self._state = _State.CHUNK_DATA
            if len(buffer) - at < self._left_bytes + 2:
                # hand out what is there: a slow reader counts bytes, not chunks
                ready = min(self._left_bytes, len(buffer) - at)
                pieces.append(buffer[at : at + ready])
                self._left_bytes -= ready
                at += ready
                break
            end = at + self._left_bytes
            if buffer[end : end + 2] != b"\r\n":
                raise FramingError("chunk does not end where its size says")
            pieces.append(buffer[at:end])
            at = end + 2
            self._state = _State.CHUNK_SIZE
        self._buffer = buffer[at:]
        if self._state is _State.TRAILERS:
            self._read_trailers()
        return b"".join(pieces)

    def _read_trailers(self) -> None:
        if self._buffer.startswith(b"\r\n"):
            self._buffer = self._buffer[2:]
            self._state = _State.COMPLETE
        elif (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            self._buffer = self._buffer[end + 4 :]
            self._state = _State.COMPLETE


def request_bytes(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """One request, ready for the wire."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body or method == "POST":
        lines.append(f"content-length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body
