"""What one connection can send without end that says nothing, as bytes."""

from typing import Final

import hpack

CHAT = "/v1/chat/completions"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _PRIORITY, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 2, 4, 6, 8
_UNKNOWN = 0xBE


def frame(kind: int, payload: bytes = b"", *, stream: int = 0, flags: int = 0) -> bytes:
    """One HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _upload() -> bytes:
    """The start of an HTTP/2 connection on which stream 1 has a body to come."""
    fields = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", CHAT)]
    head = hpack.Encoder().encode([*fields, ("content-type", "application/json")])
    return _PREFACE + frame(_SETTINGS) + frame(_HEADERS, head, stream=1, flags=4)


_HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_CHUNKED = f"{_HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()

FLOODS: Final[dict[str, tuple[bytes, bytes]]] = {
    "nothing": (b"", b""),
    "HTTP/2 empty DATA": (_upload(), frame(_DATA, stream=1)),
    "HTTP/2 padding": (_upload(), frame(_DATA, b"\0", stream=1, flags=8)),
    "HTTP/2 SETTINGS": (_PREFACE + frame(_SETTINGS), frame(_SETTINGS)),
    "HTTP/2 WINDOW_UPDATE": (_PREFACE + frame(_SETTINGS), frame(_WINDOW_UPDATE, b"\0\0\0\1")),
    "HTTP/2 PRIORITY": (_PREFACE + frame(_SETTINGS), frame(_PRIORITY, b"\0\0\0\0\7", stream=3)),
    "HTTP/2 PING": (_PREFACE + frame(_SETTINGS), frame(_PING, b"12345678")),
    "HTTP/2 unknown frames": (_PREFACE + frame(_SETTINGS), frame(_UNKNOWN)),
    "HTTP/1.1 chunks of 1 byte": (_CHUNKED, b"1\r\n \r\n"),
    "HTTP/1.1 chunk extensions of 8 kB": (_CHUNKED, b"1;" + b"x" * 8000 + b"\r\n \r\n"),
    "HTTP/1.1 pipelined requests": (b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "HTTP/1.1 empty lines": (b"", b"\r\n"),
}
"""By name: what is sent first, and what is then sent without end."""
