"""Request bodies: what one may be, how large, how long it may take, and what all may hold together."""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, TypeVar

import msgspec
import trio
from quart import Request

from corral.dialects.spans import has_more_commas
from corral.errors import (
    Draining,
    InvalidRequest,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
    prompt_too_long,
)

T = TypeVar("T")

ESCAPED: Final = 6
"""Bytes of JSON that a byte of text can take: "\\u0041"."""

BESIDE_PROMPT_BYTES: Final = 1024 * 1024
"""What a body may hold that is no part of the prompt: schemas, biases, white space."""

PARSE_ON_LOOP_BYTES: Final = 64 * 1024
"""Larger bodies are parsed in a thread, and their messages counted first: 15 MB of short ones take 0.9 s to
parse and 0.03 s to count. A body of this size takes 2 ms."""

MOST_COMMAS: Final = 400_000
COMMAS_PER_TOKEN: Final = 8
"""How many values a large body may have: so many, beside those of the messages that fit the context. All of a
vocabulary's biases are fewer, and five million empty objects, 15 MB, hold everybody up for 0.3 s while they
are parsed and take 400 MB."""

REASON: Final = "see --body-limit-bytes"
ARRIVING: Final = "too many request bodies are arriving; try again soon"
TEXTS: Final = "too many texts are waiting to be embedded; try again soon"
FORM: Final = "application/x-www-form-urlencoded"


class _Lists(msgspec.Struct):
    """Where the APIs have their messages, unread."""

    messages: msgspec.Raw = msgspec.Raw(b"[]")
    input: msgspec.Raw = msgspec.Raw(b"[]")

    @property
    def message_count(self) -> int:
        """Of lists that begin with an object: `input` may also be a text, or a list of texts or tokens.

        Raises ValidationError for a list with anything else in it.
        """
        return sum(
            len(_objects.decode(found)) for found in (self.messages, self.input) if _OBJECTS.match(found)
        )


class _Object(msgspec.Struct, gc=False):
    """Of which nothing is kept, so that millions of them are some megabytes."""


_lists: Final = msgspec.json.Decoder(_Lists)
_objects: Final = msgspec.json.Decoder(list[_Object])
_OBJECTS: Final = re.compile(rb"\[[ \t\n\r]*\{")


class BodyMemory:
    """What bodies, or what they are parsed into, may hold together. Synchronous, no clock, no task.

    A body may grow as long as it is no larger than what it leaves free (Choudhury and Hahne's dynamic
    threshold, 1998). So one body may have half of all, and however many large ones arrive, as much as each of
    them holds stays free for the next.
    """

    def __init__(self, limit_bytes: int, refusal: str = ARRIVING) -> None:
        self._free_bytes = limit_bytes
        self._refusal = refusal

    @property
    def free_bytes(self) -> int:
        return self._free_bytes

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """Hold nothing yet, and until the block ends what the yielded function is told to take.

        It raises Overloaded if there is too little left.
        """
        held = 0

        def grow(size: int) -> None:
            nonlocal held
            if held + size > self._free_bytes - size:
                raise Overloaded(self._refusal, retry_after_s=1)
            self._free_bytes -= size
            held += size

        try:
            yield grow
        finally:
            self._free_bytes += held


class Bodies:
    """Reads and parses the JSON bodies of requests within the limits."""

    def __init__(
        self,
        *,
        limit_bytes: int,
        memory_bytes: int,
        timeout_s: float,
        prompt_bytes: int | None,
        ctx_tokens: int,
    ) -> None:
        """No prompt of more than `prompt_bytes`, or of more than `ctx_tokens` messages, fits the context.

        `prompt_bytes` is None where that is not known.
        """
        self._limit_bytes = self._prompt_bytes = limit_bytes
        self._prompt_reason = REASON
        fitting_bytes = BESIDE_PROMPT_BYTES + ESCAPED * (prompt_bytes or 0)
        if prompt_bytes is not None and fitting_bytes < limit_bytes:
            self._prompt_bytes = fitting_bytes
            self._prompt_reason = "a prompt in it cannot fit the model's maximum context length"
        self._timeout_s = timeout_s
        self._ctx_tokens = ctx_tokens
        self._memory = BodyMemory(memory_bytes)
        self._texts = BodyMemory(memory_bytes, TEXTS)
        self._parsing = trio.CapacityLimiter(1)
        self._arriving: set[trio.CancelScope] = set()
        self._is_closed = False

    def close(self) -> None:
        """The server shuts down: refuse what has not arrived, now and from now on. Synchronous."""
        self._is_closed = True
        for scope in self._arriving:
            scope.cancel()

    @asynccontextmanager
    async def received(self, request: Request, *, is_one_prompt: bool = True) -> AsyncIterator[bytes]:
        """The whole body, which counts as held in memory until the block ends; cancel-safe.

        One that `is_one_prompt` may be no larger than what could fit the context.

        Raises UnsupportedMediaType, RequestTimeout, Overloaded, Draining, or PayloadTooLarge as soon as that
        is known.
        """
        check_encoding(request)
        check_is_json(request)
        with self._memory.hold() as grow:
            with self.until_closed():
                body = await read_body(
                    request,
                    limit_bytes=self._prompt_bytes if is_one_prompt else self._limit_bytes,
                    timeout_s=self._timeout_s,
                    reason=self._prompt_reason if is_one_prompt else REASON,
                    grow=grow,
                )
            if _media_type(request) == FORM and not body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
                raise _not_json(FORM)
            yield body

    @contextmanager
    def texts_held(self, size_bytes: int) -> Iterator[None]:
        """Texts of this size, which no context bounds, count as held until the block ends.

        Not in the memory of bodies: texts may wait long, and chats shall be able to arrive meanwhile. More
        than a body may have counts as that, so all that can arrive can be held. Raises Overloaded.
        """
        with self._texts.hold() as grow:
            grow(min(size_bytes, self._limit_bytes))
            yield

    @contextmanager
    def until_closed(self) -> Iterator[None]:
        """What is awaited in the block ends at `close`; raises Draining then."""
        scope = trio.CancelScope()
        if self._is_closed:
            scope.cancel()
        self._arriving.add(scope)
        try:
            with scope:
                yield
        finally:
            self._arriving.remove(scope)
        if scope.cancelled_caught:
            raise Draining("the server is shutting down")

    async def parse(self, parse: Callable[[bytes], T], body: bytes) -> T:
        """What `parse` makes of a body, off the event loop if it is large; raises what it raises.

        Large ones are parsed one at a time. Cancelling waits for the one that is being parsed. Raises
        ContextExceeded for one of too many messages, InvalidRequest for one of too many values.
        """
        if len(body) <= PARSE_ON_LOOP_BYTES:
            return parse(body)
        return await trio.to_thread.run_sync(self._parse_large, parse, body, limiter=self._parsing)

    def _parse_large(self, parse: Callable[[bytes], T], body: bytes) -> T:
        with suppress(msgspec.DecodeError, RecursionError):  # which `parse` tells in its own words
            lists = _lists.decode(body)
            if lists.message_count > self._ctx_tokens:  # each takes a token at least
                param = "messages" if memoryview(lists.messages).nbytes > len("[]") else "input"
                raise prompt_too_long(lists.message_count, self._ctx_tokens, "at least ", param=param)
        most = MOST_COMMAS + COMMAS_PER_TOKEN * self._ctx_tokens
        if has_more_commas(body, most):
            raise InvalidRequest(f"The body has more than {most} values, which is too much here.")
        return parse(body)


async def read_body(
    request: Request,
    *,
    limit_bytes: int,
    timeout_s: float,
    reason: str = "that is too much here",
    grow: Callable[[int], None] = lambda size: None,
) -> bytes:
    """The whole request body, counted as it arrives; cancel-safe. `grow` is told of every piece.

    Raises PayloadTooLarge as soon as it is known to be, RequestTimeout, or what `grow` raises.
    """
    too_large = PayloadTooLarge(
        f"the request body is larger than {limit_bytes} bytes: {reason}", limit_bytes=limit_bytes
    )
    if (request.content_length or 0) > limit_bytes:
        raise too_large
    body = bytearray()
    with trio.move_on_after(timeout_s) as scope:
        try:
            async for data in request.body:
                grow(len(data))
                body += data
                if len(body) > limit_bytes:
                    raise too_large
        except Exception as error:
            if type(error).__name__ != "ClientDisconnectedError":  # Quart 0.22 has no such class
                raise
            await trio.sleep_forever()  # 0.23 tells of a client that is gone, moments before it cancels us
    if scope.cancelled_caught:
        raise RequestTimeout(f"the request body did not arrive within {timeout_s:g} s")
    return bytes(body)


def check_encoding(request: Request) -> None:
    """Raises UnsupportedMediaType for a body that is compressed."""
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType(
            f"a body in the encoding {encoding!r} is not taken here, only a plain one",
            accept={"Accept-Encoding": "identity"},
        )


def check_is_json(request: Request) -> None:
    """Raises UnsupportedMediaType for a body that says it is something else than JSON.

    A page of another site can send forms and text without asking anybody, so these are refused whatever is in
    them, except that curl says "form" of everything: from who is no browser, a form is judged by its text.
    """
    media_type = _media_type(request)
    if media_type in ("", "application/json", "text/json") or media_type.endswith("+json"):
        return
    is_browser = any(name.startswith(("Origin", "Sec-Fetch-")) for name, _ in request.headers)
    if media_type != FORM or is_browser:
        raise _not_json(media_type)


def _media_type(request: Request) -> str:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _not_json(media_type: str) -> UnsupportedMediaType:
    return UnsupportedMediaType(
        f"a body of type {media_type!r} is not taken here, only application/json",
        accept={"Accept": "application/json"},
    )
