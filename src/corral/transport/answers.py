"""What the transport says where no app does: answers from the same table as everywhere, in the API's shape.

This side of the app answers requests that cannot be read, that are too large or too late, at which the app
has failed, or for which there is no place. Whose client waits is told by the path, as far as it has come.
"""

import re
import secrets
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from hypercorn.protocol.events import Body, EndBody, Response
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream

from corral.dialects.routes import errors_at
from corral.errors import (
    CorralError,
    HeadersTooLarge,
    InvalidRequest,
    NotFound,
    Overloaded,
    RequestTimeout,
    TargetTooLong,
    UnknownCoding,
)

REQUEST_LINE_BYTES: Final = 256
"""How much of a request line is looked at: enough for the longest path of a route."""

_PATH: Final = re.compile(rb"[^ ]* (?:https?://[^/ ]*)?(?P<path>/[^ ?#\r\n]*)", re.IGNORECASE)

TOO_MANY: Final = Overloaded("too many connections", retry_after_s=1)
TOO_SLOW: Final = RequestTimeout("the request did not arrive in time")
FAILED: Final = CorralError("internal error")

_SAID_BY_H11: Final[dict[int, CorralError]] = {
    400: InvalidRequest("this is not a request of HTTP/1.1"),
    404: NotFound("this server does not answer to that name"),
    431: HeadersTooLarge("the request's headers are too large"),
    501: UnknownCoding("the request body comes in a transfer coding that is not known here, or in several"),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response; `headers` has no `Connection`, which only one of the protocols knows."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def answer_to(error: CorralError, path: str) -> Answer:
    """What to say of an error to who asked for `path`."""
    request_id = f"req_{secrets.token_hex(12)}"
    errors = errors_at(path)
    reply = errors.error(error, request_id)
    headers = {
        "content-type": "application/json",
        "content-length": str(len(reply.body)),
        "x-request-id": request_id,
        errors.id_header: request_id,
        "x-content-type-options": "nosniff",
        **{name.lower(): value for name, value in reply.headers.items()},
    }
    return Answer(
        reply.status, [(name.encode(), value.encode()) for name, value in headers.items()], reply.body
    )


def path_of(head: bytes) -> str:
    """The path in the beginning of a request's head; "/" for what has none."""
    match = _PATH.match(head.lstrip(b"\r\n"))
    return "/" if match is None else unquote(match["path"].decode("latin-1"))


def unreadable(status_code: int, *, in_body: bool, in_line: bool) -> CorralError:
    """What is wrong with a request that h11 gave up on with a status; where it did says more than h11."""
    if status_code == 431 and in_body:
        return _SAID_BY_H11[400]
    if status_code == 431 and in_line:
        return TargetTooLong("the request's first line is too long")
    return _SAID_BY_H11.get(status_code, _SAID_BY_H11[400])


def too_many_connections() -> bytes:
    """The whole answer, over HTTP/1.1, to a client that there is no place for."""
    answer = answer_to(TOO_MANY, "/")
    lines = [b"HTTP/1.1 %d Service Unavailable" % answer.status, b"connection: close"]
    lines += [b"%b: %b" % header for header in answer.headers]
    return b"\r\n".join((*lines, b"", answer.body))


class AnsweringStream(HTTPStream):
    """Hypercorn's stream, which tells what the app could not in the shape of the app's API."""

    async def _send_error_response(self, status_code: int) -> None:
        error = FAILED if status_code >= 500 else _SAID_BY_H11[404]
        answer = answer_to(error, self.scope["path"])
        headers = answer.headers
        if self.scope["http_version"] != "2":
            headers = [*headers, (b"connection", b"close")]
        await self.send(Response(stream_id=self.stream_id, headers=headers, status_code=answer.status))
        if self.scope["method"] != "HEAD":
            await self.send(Body(stream_id=self.stream_id, data=answer.body))
        await self.send(EndBody(stream_id=self.stream_id))
        self.state = ASGIHTTPState.CLOSED
