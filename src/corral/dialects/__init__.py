"""What each API looks like on the wire: parse bytes into a request, encode events into bytes, nothing else.

A dialect knows no socket, no clock and no engine. `http` drives it through the protocols here:

    call = dialect.parse(body, headers, client)    # InvalidRequest if the body is not one
    stream = call.stream(head)                     # if call.wants_stream
    write(stream.start())                          # at once on acceptance
    write(stream.encode(choice, event))            # for every event; b"" if it shows nothing
    write(stream.keepalive())                      # when nothing was written for keepalive_s
    write(stream.end())                            # after every choice has finished
    write(stream.fail(error))                      # instead of end(), when one could not
    call.complete(head, completions)               # if not call.wants_stream
    dialect.error(error, request_id)               # whatever went wrong before the first byte

An API may also tell how long a prompt is (`Counter`), make vectors of texts (`Embedder`), and keep its
answers for a while (`Keeper`).

A new API is a module below here with its `Dialect`, and a line in `routes.table`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from corral.errors import CorralError
from corral.events import Completion, Event
from corral.request import GenerationRequest

Headers = Mapping[str, str]
"""A request's headers, names in lower case; the values of a repeated one joined by ", " (RFC 9110, 5.3)."""


@dataclass(frozen=True, slots=True)
class Head:
    """What an answer says of itself before its first token. `model` is the public name of what answers.

    `prompt_tokens` is 0 where the stream had to begin before the prompt was written. Prompt and answer share
    `ctx_tokens`; None where that is not known.
    """

    id: str
    created_s: int
    model: str
    prompt_tokens: int
    ctx_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error before the headers: the HTTP status, extra headers, and the JSON body of the dialect."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class StreamEncoder(Protocol):
    """One stream's encoder. Not shared, not thread-safe, never blocks; every return is whole SSE frames."""

    def start(self) -> bytes: ...
    def encode(self, choice: int, event: Event) -> bytes: ...
    def keepalive(self) -> bytes: ...
    def end(self) -> bytes: ...
    def fail(self, error: CorralError) -> bytes: ...


class Call(Protocol):
    """A parsed request of one dialect: what to generate and how to say it."""

    @property
    def request(self) -> GenerationRequest: ...
    @property
    def wants_stream(self) -> bool: ...
    @property
    def model(self) -> str | None:
        """The model the client named, unchecked."""
        ...

    def stream(self, head: Head) -> StreamEncoder: ...
    def complete(self, head: Head, completions: Sequence[Completion]) -> bytes: ...


class Errors(Protocol):
    """How one family of APIs tells what went wrong before the first byte of an answer."""

    id_header: str
    """The header in which its clients look for the id of their request."""

    def error(self, error: Exception, request_id: str) -> ErrorReply:
        """The reply; what is not a CorralError is a bug, and the reply tells nothing of it."""
        ...


class Dialect(Errors, Protocol):
    """One API."""

    id_prefix: str
    """What its response ids begin with, such as `chatcmpl-`."""

    def parse(self, body: bytes, headers: Headers, client: str) -> Call:
        """Parse a request of `client`; may run in any thread. Raises InvalidRequest."""
        ...


class Counter(Errors, Protocol):
    """One API's way to ask how long a prompt is."""

    def parse(self, body: bytes, headers: Headers, client: str) -> GenerationRequest:
        """The request whose prompt is to be measured; may run in any thread. Raises InvalidRequest."""
        ...

    def told(self, prompt_tokens: int) -> bytes:
        """The answer."""
        ...


class EmbedCall(Protocol):
    """A parsed request for vectors of texts."""

    @property
    def request(self) -> GenerationRequest: ...
    def complete(self, head: Head, completion: Completion) -> Iterator[bytes]:
        """The answer piece by piece, each the work of a millisecond; may run in any thread."""
        ...


class Embedder(Errors, Protocol):
    """One API's way to ask for vectors of texts."""

    id_prefix: str
    """As a Dialect's."""

    def parse(self, body: bytes, headers: Headers, client: str) -> EmbedCall:
        """As a Dialect's."""
        ...


class Keeper(Errors, Protocol):
    """An API that keeps its answers for a while. Each is there for the client that asked for it, and for
    nobody else: all of these raise NotFound otherwise. What they return is JSON."""

    def kept(
        self, id: str, client: str, query: Mapping[str, str], is_running: Callable[[str], bool]
    ) -> bytes:
        """An answer, which may still be running: `is_running(id)` knows. Raises InvalidRequest."""
        ...

    def forgotten(self, id: str, client: str) -> bytes:
        """Drop it."""
        ...

    def inputs(self, id: str, client: str, query: Mapping[str, str]) -> bytes:
        """What was asked. Raises InvalidRequest."""
        ...

    def cancelled(self, id: str, client: str, cancel: Callable[[str], bool]) -> bytes:
        """End it with `cancel(id)`, which is False if it has ended already; the answer as it is then."""
        ...
