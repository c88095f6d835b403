"""Requests of `POST /v1/chat/completions`, parsed. `fields` says which there are, and what becomes of each.

`null` means absent. Unknown fields pass. An assistant message's `audio` and `function_call` are refused; a
last message of the assistant is continued.

Sources: OpenAI's API reference, https://platform.openai.com/docs/api-reference/chat/create.
"""

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from corral.dialects.fields import refuse
from corral.dialects.openai.chat_tools import (
    ToolFields,
    choice_of,
    template_kwargs_of,
    thinking_of,
    tools_of,
)
from corral.dialects.openai.fields import REFUSED
from corral.dialects.openai.sampling import agreed, max_tokens_of, sampling_of, stop_of, whole
from corral.dialects.openai.structure import grammar_of
from corral.dialects.wire import decode
from corral.errors import InvalidRequest
from corral.request import GenerationRequest, Message, Role, ToolCall


class _TextPart(msgspec.Struct, tag_field="type", tag="text"):
    text: str


class _RefusalPart(msgspec.Struct, tag_field="type", tag="refusal"):
    refusal: str


_Text = str | list[_TextPart]


class _Spoken(msgspec.Struct, tag_field="role"):
    content: _Text
    name: str | None = None


class _System(_Spoken, tag="system"):
    pass


class _Developer(_Spoken, tag="developer"):
    pass


class _User(_Spoken, tag="user"):
    pass


class _Function(msgspec.Struct):
    name: str
    arguments: str


class _Custom(msgspec.Struct):
    name: str
    input: str


class _FunctionCall(msgspec.Struct, tag_field="type", tag="function"):
    id: str
    function: _Function


class _CustomCall(msgspec.Struct, tag_field="type", tag="custom"):
    id: str
    custom: _Custom


class _Assistant(msgspec.Struct, tag_field="role", tag="assistant"):
    content: str | list[_TextPart | _RefusalPart] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[_FunctionCall | _CustomCall] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    audio: object = None
    function_call: object = None


class _ToolResult(msgspec.Struct, tag_field="role", tag="tool"):
    content: _Text
    tool_call_id: str
    name: str | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


_Choices = Annotated[int, Meta(ge=1, le=128)] | Annotated[float, Meta(ge=1, le=128)]

if TYPE_CHECKING:

    class _Refused(ToolFields):
        """Fields whose effect corral does not have, of any type."""

else:
    _Refused = msgspec.defstruct("_Refused", [(name, object, None) for name in REFUSED], bases=(ToolFields,))


class ChatBody(_Refused, kw_only=True):
    """The body as it came, every field of the right type and in its range."""

    messages: Annotated[
        list[_System | _Developer | _User | _Assistant | _ToolResult],
        Meta(min_length=1),
    ]
    model: str | None = None
    n: _Choices | None = None
    n_cmpl: _Choices | None = None
    no_stop_trim: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | Annotated[float, Meta(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    return_progress: bool | None = None
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None


_decoder: Final = msgspec.json.Decoder(ChatBody)
_ROLES: Final[dict[type[_Spoken], Role]] = {_System: "system", _Developer: "developer", _User: "user"}


def read_chat(body: bytes) -> ChatBody:
    """Read a request body; raises InvalidRequest with the `param` OpenAI would name."""
    chat = decode(_decoder, body)
    # Behind an answer that is continued there is no prompt for one; vLLM's clients have to say so.
    allowed = "add_generation_prompt" if isinstance(chat.messages[-1], _Assistant) else None
    refuse(chat, (field for name, field in REFUSED.items() if name != allowed))
    return chat


def generation_request(chat: ChatBody) -> GenerationRequest:
    """What a body asks for; raises InvalidRequest."""
    return GenerationRequest(
        messages=_messages(chat),
        sampling=sampling_of(chat),
        max_tokens=max_tokens_of(chat),
        stop=stop_of(chat),
        includes_stop=bool(chat.include_stop_str_in_output or chat.no_stop_trim),
        shows_control=chat.skip_special_tokens is False,
        top_logprobs=_top_logprobs(chat),
        n=agreed(chat, ("n", "n_cmpl"))[1] or 1,
        priority=chat.priority or 0,
        tools=tools_of(chat),
        tool_choice=choice_of(chat),
        calls_in_parallel=chat.parallel_tool_calls is not False,
        thinking=thinking_of(chat),
        grammar=grammar_of(chat),
        template_kwargs=template_kwargs_of(chat),
    )


def wants_usage(chat: ChatBody) -> bool:
    """Whether a stream ends with a chunk that counts tokens; raises InvalidRequest."""
    options = chat.stream_options
    if options is None:
        return False
    if not chat.stream:
        raise InvalidRequest("'stream_options' needs 'stream' to be true.", param="stream_options")
    if options.include_obfuscation:
        param = "stream_options.include_obfuscation"
        raise InvalidRequest(f"'{param}' is not supported by this server.", param=param)
    return bool(options.include_usage)


def _messages(chat: ChatBody) -> tuple[Message, ...]:
    messages = []
    for index, message in enumerate(chat.messages):
        match message:
            case _Assistant():
                messages.append(_assistant(message, f"messages[{index}]"))
            case _ToolResult():
                text = _joined(message.content)
                messages.append(Message("tool", text, message.name, tool_call_id=message.tool_call_id))
            case _:
                messages.append(Message(_ROLES[type(message)], _joined(message.content), message.name))
    if messages[-1].tool_calls:
        param = f"messages[{len(messages) - 1}].tool_calls"
        raise InvalidRequest(f"'{param}' must be followed by tool messages with the results.", param=param)
    return tuple(messages)


def _assistant(message: _Assistant, path: str) -> Message:
    for field in ("audio", "function_call"):
        if getattr(message, field) is not None:
            raise InvalidRequest(f"'{path}.{field}' is not supported.", param=f"{path}.{field}")
    content = message.content if message.content is not None else message.refusal
    if content is None and not message.tool_calls:
        what = f"'{path}.content' must be a string or a list of parts, unless there are tool calls."
        raise InvalidRequest(what, param=f"{path}.content")
    return Message(
        "assistant",
        _joined(content or ""),
        message.name,
        tool_calls=tuple(map(_call, message.tool_calls or ())),
        reasoning=message.reasoning_content or message.reasoning or "",
    )


def _call(call: _FunctionCall | _CustomCall) -> ToolCall:
    if isinstance(call, _CustomCall):
        arguments = msgspec.json.encode({"input": call.custom.input}).decode()
        return ToolCall(call.id, call.custom.name, arguments)
    return ToolCall(call.id, call.function.name, call.function.arguments)


def _joined(content: _Text | list[_TextPart | _RefusalPart]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text if isinstance(part, _TextPart) else part.refusal for part in content)


def _top_logprobs(chat: ChatBody) -> int | None:
    if chat.logprobs:
        return whole(chat.top_logprobs or 0, "top_logprobs")
    if chat.top_logprobs is not None:
        raise InvalidRequest("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
    return None
