"""A second dialect, as small as one can be, for what http must do for any: `POST /plain`.

The body is the prompt; `Plain-Stream: yes` asks for a stream of named frames. Errors look like nobody else's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from corral.dialects import ErrorReply, Head, Headers
from corral.dialects.openai.errors import OpenAIErrors
from corral.dialects.routes import AnyRoute, DialectOptions, Route, table
from corral.dialects.wire import frame
from corral.errors import CorralError, InvalidRequest
from corral.events import BlockDelta, Completion, Event
from corral.request import GenerationRequest, Message


class Begin(msgspec.Struct):
    id: str
    prompt: int


class Said(msgspec.Struct):
    text: str


class Trouble(msgspec.Struct):
    trouble: str
    request: str


@dataclass(frozen=True, slots=True)
class PlainCall:
    request: GenerationRequest
    wants_stream: bool
    model: str | None = None

    def stream(self, head: Head) -> "PlainStream":
        return PlainStream(head)

    def complete(self, head: Head, completions: Sequence[Completion]) -> bytes:
        return msgspec.json.encode(Said(completions[0].text))


class PlainStream:
    def __init__(self, head: Head) -> None:
        self._head = head

    def start(self) -> bytes:
        return frame(Begin(self._head.id, self._head.prompt_tokens), event="begin")

    def encode(self, choice: int, event: Event) -> bytes:
        return frame(Said(event.text), event="said") if isinstance(event, BlockDelta) else b""

    def keepalive(self) -> bytes:
        return frame(Said(""), event="said")

    def end(self) -> bytes:
        return b"event: end\ndata: {}\n\n"

    def fail(self, error: CorralError) -> bytes:
        return frame(Trouble(error.message, ""), event="trouble")


class PlainDialect:
    id_header = "plain-id"
    id_prefix = "plain-"

    def parse(self, body: bytes, headers: Headers, client: str) -> PlainCall:
        if not body:
            raise InvalidRequest("nothing was asked")
        request = GenerationRequest((Message("user", body.decode()),))
        return PlainCall(request, headers.get("plain-stream") == "yes")

    def error(self, error: Exception, request_id: str) -> ErrorReply:
        told = OpenAIErrors().error(error, request_id)
        message = error.message if isinstance(error, CorralError) else "a bug"
        return ErrorReply(told.status, msgspec.json.encode(Trouble(message, request_id)), told.headers)


PLAIN = Route("/plain", "plain", PlainDialect())


def with_plain(options: DialectOptions) -> tuple[AnyRoute, ...]:
    """All routes there are, and this one."""
    return (*table(options), PLAIN)
