"""OpenAI's Responses: `POST /v1/responses`.

What is taken from a request is in `responses_request`. Each block of an answer is an item of `output`: a
message, a reasoning item, a function call or a custom tool's call. Decisions where the reference leaves
room or real clients need more:

- `response.created` and `response.in_progress` go out on acceptance. A keepalive is
  `response.in_progress` again: Codex counts parsed events only. It repeats all that was said, the open item
  included, because openai-node goes on from what is in it. `sequence_number` has no gaps. While a request
  waits or its prompt is read, it tells where it is, in fields of its own.
- A thought is streamed as `reasoning_text`, as servers of open models do; a client that asks for a
  summary gets it as the summary instead, since it reads nothing else. Never both.
- A tool with free input is called by the model with JSON; clients get the text that the JSON spells, as
  it comes.
- The end is one of `response.completed`, `.incomplete` (`max_output_tokens`) and `.failed`; nothing
  follows it. A stream that its client cancelled by another request ends as `.failed` too, since there is no
  event for it, and its status says `cancelled`.
- A response is stored when it has ended, however; not where its client left.

Sources: https://platform.openai.com/docs/api-reference/responses-streaming and the types of openai-python
3.57.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from corral.decoding.string_field import StringField
from corral.dialects import Head, Headers
from corral.dialects.openai.errors import OpenAIErrors, error_code
from corral.dialects.openai.responses_request import (
    ID_BYTES,
    Echo,
    OwnTool,
    ResponsesRequest,
    listed,
    parse_responses,
)
from corral.dialects.openai.responses_store import OwnResponses, ResponsesStore, Turn
from corral.dialects.progress import LoadingProgress, PromptProgress, QueueProgress, Whereabouts
from corral.dialects.seal import Seal
from corral.dialects.wire import frame
from corral.errors import Cancelled, CorralError
from corral.events import (
    Block,
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Completion,
    Event,
    Finished,
    Loading,
    Prefill,
    Queued,
    Started,
    TokenLogprob,
    Usage,
)
from corral.request import GenerationRequest

Status = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]


# The wire. Field order is the order on it. None of these can be part of a reference cycle, hence gc=False.


class _TopLogprob(msgspec.Struct, gc=False):
    token: str
    logprob: float
    bytes: list[int]


class _Logprob(msgspec.Struct, gc=False):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[_TopLogprob]


class _OutputText(msgspec.Struct, gc=False, tag_field="type", tag="output_text"):
    text: str
    annotations: tuple[()] = ()
    logprobs: list[_Logprob] = []


class _ReasoningText(msgspec.Struct, gc=False, tag_field="type", tag="reasoning_text"):
    text: str


class _SummaryText(msgspec.Struct, gc=False, tag_field="type", tag="summary_text"):
    text: str


_Part = _OutputText | _ReasoningText | _SummaryText


class _MessageItem(msgspec.Struct, gc=False, tag_field="type", tag="message"):
    id: str
    status: Status
    role: str
    content: list[_OutputText]


class _ReasoningItem(msgspec.Struct, gc=False, tag_field="type", tag="reasoning"):
    id: str
    status: Status
    summary: list[_SummaryText]
    content: list[_ReasoningText]
    encrypted_content: str | None = None


class _CallItem(msgspec.Struct, gc=False, tag_field="type", tag="function_call", omit_defaults=True):
    id: str
    status: Status
    call_id: str
    name: str
    arguments: str
    namespace: str | None = None


class _CustomCallItem(msgspec.Struct, gc=False, tag_field="type", tag="custom_tool_call", omit_defaults=True):
    id: str
    status: Status
    call_id: str
    name: str
    input: str
    namespace: str | None = None


_OutputItem = _MessageItem | _ReasoningItem | _CallItem | _CustomCallItem


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int
    cache_write_tokens: int = 0


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int
    input_tokens_details: _InputDetails
    output_tokens: int
    output_tokens_details: _OutputDetails
    total_tokens: int


class _Error(msgspec.Struct, gc=False):
    code: str
    message: str


class _IncompleteDetails(msgspec.Struct, gc=False):
    reason: str


class Response(msgspec.Struct, gc=False, tag_field="object", tag="response"):
    """The response object, whole or so far."""

    id: str
    created_at: float
    status: Status
    error: _Error | None
    incomplete_details: _IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[_OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: msgspec.Raw
    store: bool
    temperature: float
    text: msgspec.Raw
    tool_choice: msgspec.Raw
    tools: msgspec.Raw
    top_p: float
    truncation: str
    usage: _Usage | None
    user: str | None
    metadata: dict[str, str]
    background: bool = False


class _Lifecycle(msgspec.Struct, gc=False):
    type: str
    sequence_number: int
    response: Response
    queue_progress: QueueProgress | UnsetType = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET
    loading_progress: LoadingProgress | UnsetType = UNSET


class _ItemEvent(msgspec.Struct, gc=False):
    type: str
    sequence_number: int
    output_index: int
    item: _OutputItem


class _PartEvent(msgspec.Struct, gc=False, omit_defaults=True):
    type: str
    sequence_number: int
    item_id: str
    output_index: int
    part: _Part
    content_index: int | None = None
    summary_index: int | None = None


class _TextEvent(msgspec.Struct, gc=False, omit_defaults=True):
    """A delta or the end of a text, of arguments or of a custom tool's input."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int | None = None
    summary_index: int | None = None
    delta: str | None = None
    text: str | None = None
    arguments: str | None = None
    input: str | None = None
    name: str | None = None
    logprobs: list[_Logprob] | None = None


@dataclass(slots=True)
class _Open:
    """The item that is being told."""

    item: _OutputItem
    texts: list[str]
    logprobs: list[_Logprob]
    unwrapped: StringField | None = None


class ResponsesStream:
    """Encodes one streamed answer; a `StreamEncoder`, and `Running` while somebody writes it."""

    def __init__(self, head: Head, call: "ResponsesCall") -> None:
        self.client = call.own.client
        self._head = head
        self._call = call
        self._sequence = 0
        self._output: list[_OutputItem] = []
        self._open: _Open | None = None
        self._has_closed = False
        """The open item has all of its text; how it ended is known with the next event."""
        self._finished: Finished | None = None
        self._whereabouts = Whereabouts()

    @property
    def may_be_kept(self) -> bool:
        return self._call.parsed.stores

    def so_far(self, *, is_cancelled: bool) -> bytes:
        status: Status = "cancelled" if is_cancelled else "in_progress"
        output = self._said_so_far("incomplete" if is_cancelled else "in_progress")
        return msgspec.json.encode(self._call.response(self._head, status, output))

    def start(self) -> bytes:
        response = self._call.response(self._head, "in_progress", [])
        return self._lifecycle("created", response) + self._lifecycle("in_progress", response)

    def encode(self, choice: int, event: Event) -> bytes:
        """A Failed shows nothing here: `fail` ends the stream."""
        match event:
            case BlockDelta():
                return self._said(event)
            case BlockOpened():
                return self._closed("completed") + self._opened(event)
            case BlockClosed(is_whole=is_whole):
                self._has_closed = True
                if self._open is not None and isinstance(self._open.item, _CallItem | _CustomCallItem):
                    return self._closed("completed" if is_whole else "incomplete")  # at once: it is to be run
                return b""
            case Finished():
                self._finished = event
                return self._closed(_last_status(event))
            case Loading() | Queued() | Prefill() | Started():
                self._whereabouts.hear(event)
                return b""
            case _:
                return b""

    def keepalive(self) -> bytes:
        response = self._call.response(self._head, "in_progress", self._said_so_far("in_progress"))
        where = self._whereabouts
        return _frame(
            _Lifecycle(
                "response.in_progress", self._next(), response, where.queue, where.prompt, where.loading
            )
        )

    def end(self) -> bytes:
        assert self._finished is not None
        response = self._call.ended(self._head, self._output, self._finished)
        self._call.keep(response)
        return self._lifecycle(response.status, response)

    def fail(self, error: CorralError) -> bytes:
        status: Status = "cancelled" if isinstance(error, Cancelled) else "failed"
        response = self._call.response(self._head, status, self._said_so_far("incomplete"))
        response.error = _Error(error_code(error), error.message)
        self._call.keep(response)
        return self._lifecycle("failed", response)

    def _said_so_far(self, status: Status) -> list[_OutputItem]:
        """All items, the open one with this status."""
        if self._open is None:
            return self._output
        text = "".join(self._open.texts)
        return [*self._output, self._call.filled(self._open.item, status, text, self._open.logprobs)]

    # One item

    def _opened(self, event: BlockOpened) -> bytes:
        item = self._call.item(event, "in_progress", "")
        unwrapped = StringField("input") if isinstance(item, _CustomCallItem) else None
        self._open = _Open(item, [], [], unwrapped)
        frames = self._item("added", item)
        if (part := self._part("")) is not None:
            frames += self._part_event("added", part)
        return frames

    def _said(self, event: BlockDelta) -> bytes:
        current = self._open
        assert current is not None
        text = event.text
        if current.unwrapped is not None:
            text = current.unwrapped.feed(text)
            if not text:
                return b""
        current.texts.append(text)
        logprobs = [_logprob(token) for token in event.logprobs]
        current.logprobs += logprobs
        return self._text_event("delta", delta=text, logprobs=logprobs)

    def _closed(self, status: Status) -> bytes:
        """The end of the item whose text is all there, if there is one."""
        current = self._open
        if current is None or not self._has_closed:
            return b""
        text = "".join(current.texts)
        item = self._call.filled(current.item, status, text, current.logprobs)
        current.item = item
        frames = self._text_done(text)
        if (part := self._part(text)) is not None:
            frames += self._part_event("done", part)
        frames += self._item("done", item)
        self._output.append(item)
        self._open, self._has_closed = None, False
        return frames

    def _part(self, text: str) -> _Part | None:
        """The part that an item's text is in, where its kind has one."""
        assert self._open is not None
        match self._open.item:
            case _MessageItem():
                return _OutputText(text, logprobs=self._open.logprobs)
            case _ReasoningItem():
                return _SummaryText(text) if self._call.shows_summary else _ReasoningText(text)
            case _:
                return None

    def _text_done(self, text: str) -> bytes:
        assert self._open is not None
        match self._open.item:
            case _MessageItem():
                return self._text_event("done", text=text, logprobs=self._open.logprobs)
            case _CallItem(name=name):
                return self._text_event("done", arguments=text, name=name)
            case _CustomCallItem():
                return self._text_event("done", input=text)
            case _:
                return self._text_event("done", text=text)

    def _text_event(self, what: str, *, logprobs: list[_Logprob] | None = None, **texts: str) -> bytes:
        assert self._open is not None
        item, index = self._open.item, len(self._output)
        content_index = summary_index = None
        match item:
            case _MessageItem():
                name, content_index = "output_text", 0
            case _ReasoningItem() if self._call.shows_summary:
                name, summary_index, logprobs = "reasoning_summary_text", 0, None
            case _ReasoningItem():
                name, content_index, logprobs = "reasoning_text", 0, None
            case _CallItem():
                name, logprobs = "function_call_arguments", None
            case _CustomCallItem():
                name, logprobs = "custom_tool_call_input", None
        event = _TextEvent(
            f"response.{name}.{what}",
            self._next(),
            item.id,
            index,
            content_index,
            summary_index,
            logprobs=logprobs,
            **texts,
        )
        return _frame(event)

    def _part_event(self, what: str, part: _Part) -> bytes:
        assert self._open is not None
        is_summary = isinstance(part, _SummaryText)
        name = "reasoning_summary_part" if is_summary else "content_part"
        place = {"summary_index": 0} if is_summary else {"content_index": 0}
        item_id, index = self._open.item.id, len(self._output)
        return _frame(_PartEvent(f"response.{name}.{what}", self._next(), item_id, index, part, **place))

    def _item(self, what: str, item: _OutputItem) -> bytes:
        return _frame(_ItemEvent(f"response.output_item.{what}", self._next(), len(self._output), item))

    def _lifecycle(self, what: str, response: Response) -> bytes:
        return _frame(_Lifecycle(f"response.{what}", self._next(), response))

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence - 1


@dataclass(frozen=True, slots=True)
class ResponsesCall:
    """A parsed request and how to answer it; a `Call`."""

    parsed: ResponsesRequest
    seal: Seal
    own: OwnResponses

    @property
    def request(self) -> GenerationRequest:
        return self.parsed.request

    @property
    def model(self) -> str | None:
        return self.parsed.model

    @property
    def wants_stream(self) -> bool:
        return self.parsed.wants_stream

    @property
    def shows_summary(self) -> bool:
        return self.parsed.shows_summary

    def stream(self, head: Head) -> ResponsesStream:
        stream = ResponsesStream(head, self)
        self.own.store.running[head.id] = stream
        return stream

    def complete(self, head: Head, completions: Sequence[Completion]) -> bytes:
        [completion] = completions
        last = len(completion.blocks) - 1
        output = [
            self._told(block, _last_status(completion.finished) if index == last else "completed")
            for index, block in enumerate(completion.blocks)
        ]
        response = self.ended(head, output, completion.finished)
        self.keep(response)
        return msgspec.json.encode(response)

    def response(self, head: Head, status: Status, output: list[_OutputItem]) -> Response:
        """The response object with this status; what the request said is repeated in it."""
        echo: Echo = self.parsed.echo
        return Response(
            id=head.id,
            created_at=float(head.created_s),
            status=status,
            error=None,
            incomplete_details=None,
            instructions=echo.instructions,
            max_output_tokens=echo.max_output_tokens,
            model=head.model,
            output=output,
            parallel_tool_calls=echo.parallel_tool_calls,
            previous_response_id=echo.previous_response_id,
            reasoning=echo.reasoning,
            store=echo.store,
            temperature=echo.temperature,
            text=echo.text,
            tool_choice=echo.tool_choice,
            tools=echo.tools,
            top_p=echo.top_p,
            truncation="disabled",
            usage=None,
            user=echo.user,
            metadata=echo.metadata,
        )

    def ended(self, head: Head, output: list[_OutputItem], finished: Finished) -> Response:
        """The response as it ended: completed, or cut by a limit."""
        is_cut = finished.reason == "length"
        response = self.response(head, "incomplete" if is_cut else "completed", output)
        if is_cut:
            response.incomplete_details = _IncompleteDetails("max_output_tokens")
        response.usage = _usage(finished.usage)
        return response

    def keep(self, response: Response) -> None:
        """Store it for who goes on from it, unless it may not be."""
        if not self.parsed.stores:
            return
        asked = [listed(item) for item in self.parsed.items]
        turn = Turn(
            msgspec.json.encode(asked),
            msgspec.json.encode(response.output),
            (*(item.id for item in asked if item.id is not None), *(item.id for item in response.output)),
        )
        self.own.keep(response.id, msgspec.json.encode(response), (*self.parsed.history, turn))

    def item(self, event: BlockOpened | Block, status: Status, text: str) -> _OutputItem:
        """The item of a block."""
        match event.kind:
            case "text":
                return _MessageItem(_id("msg"), status, "assistant", [])
            case "reasoning":
                return _ReasoningItem(_id("rs"), status, [], [])
            case "tool":
                call_id, called = event.call_id or "", event.name or ""
                tool = self.parsed.tools.get(called, OwnTool(called))
                if tool.is_custom:
                    return _CustomCallItem(_id("ctc"), status, call_id, tool.name, text, tool.namespace)
                return _CallItem(_id("fc"), status, call_id, tool.name, text, tool.namespace)

    def filled(self, item: _OutputItem, status: Status, text: str, logprobs: list[_Logprob]) -> _OutputItem:
        """The item with its whole text."""
        match item:
            case _MessageItem():
                return msgspec.structs.replace(
                    item, status=status, content=[_OutputText(text, logprobs=logprobs)]
                )
            case _ReasoningItem():
                sealed = self.seal.sealed(text) if self.parsed.seals_thoughts else None
                summary = [_SummaryText(text)] if self.shows_summary else []
                content = [] if self.shows_summary else [_ReasoningText(text)]
                return msgspec.structs.replace(
                    item, status=status, summary=summary, content=content, encrypted_content=sealed
                )
            case _CallItem():
                return msgspec.structs.replace(item, status=status, arguments=text)
            case _CustomCallItem():
                return msgspec.structs.replace(item, status=status, input=text)

    def _told(self, block: Block, status: Status) -> _OutputItem:
        item = self.item(block, status, "")
        text = block.text
        if isinstance(item, _CustomCallItem):
            text = StringField("input").feed(text)
        if block.kind == "tool":
            status = "completed" if block.is_whole else "incomplete"
        return self.filled(item, status, text, [_logprob(token) for token in block.logprobs])


class ResponsesDialect(OpenAIErrors):
    """The Responses API; a `Dialect`."""

    id_prefix = "resp_"
    prompt_param = "input"

    def __init__(self, store: ResponsesStore, seal_key: bytes) -> None:
        """`seal_key` seals thoughts that leave the server."""
        self._store = store
        self._seal = Seal(seal_key)

    def parse(self, body: bytes, headers: Headers, client: str) -> ResponsesCall:
        """Parse a request body; raises InvalidRequest."""
        own = OwnResponses(self._store, client)
        return ResponsesCall(parse_responses(body, self._seal, own), self._seal, own)


def _last_status(finished: Finished) -> Status:
    """Of the last item of an answer."""
    return "incomplete" if finished.reason == "length" else "completed"


def _frame(event: Any) -> bytes:
    return b"event: %b\n%b" % (event.type.encode(), frame(event))


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(ID_BYTES)}"


def _logprob(token: TokenLogprob) -> _Logprob:
    top = [_TopLogprob(_text(other), other.logprob, list(other.raw)) for other in token.top]
    return _Logprob(_text(token), token.logprob, list(token.raw), top)


def _text(token: TokenLogprob) -> str:
    return token.raw.decode("utf-8", "replace")


def _usage(usage: Usage) -> _Usage:
    return _Usage(
        usage.prompt_tokens,
        _InputDetails(usage.cached_tokens),
        usage.completion_tokens,
        _OutputDetails(usage.reasoning_tokens),
        usage.prompt_tokens + usage.completion_tokens,
    )
