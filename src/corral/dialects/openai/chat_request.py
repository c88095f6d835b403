"""Requests of `POST /v1/chat/completions`, parsed.

`null` means absent. A field whose effect corral does not have is refused, unless its value asks for what
happens anyway; a field that promises nothing a client could notice is accepted; unknown fields pass.

| field | taken |
|---|---|
| `messages` | system, developer, user, assistant, tool; text only; a last assistant message is continued |
| `model` | any, checked by the server; absent means the one it serves |
| `max_completion_tokens`, `max_tokens` | 1 and more, one of the two; absent means to the end of the context |
| `temperature`, `top_p`, `min_p` | 0 to 2, 0 to 1, 0 to 1 |
| `top_k` | -1 and more; -1 and 0 turn it off |
| `repeat_penalty` | above 0, up to 10; as in llama.cpp |
| `frequency_penalty`, `presence_penalty` | -2 to 2 |
| `logit_bias` | token ids to -100 to 100 |
| `seed` | 64 bits, signed |
| `stop` | a string or up to 16, of 1 to 256 characters each |
| `n` | 1 to 128; the number of slots bounds it later |
| `logprobs`, `top_logprobs` | the latter 0 to 20 and only with `logprobs: true` |
| `stream`, `stream_options.include_usage` | the latter only with `stream: true` |

| refused | unless |
|---|---|
| `tools`, `functions` | empty |
| `tool_choice`, `function_call` | `"none"` |
| `response_format` | `{"type": "text"}` |
| `modalities` | `["text"]` |
| `stream_options.include_obfuscation` | false: padding against traffic analysis must not be pretended |
| `best_of`, `repetition_penalty`, `typical_p` | 1 |
| `mirostat`, `min_tokens` | 0 |
| `ignore_eos`, `echo` | false |
| `audio`, `web_search_options`, `moderation` | never |
| `grammar`, `json_schema`, `structured_outputs`, the four `guided_*` fields | never |
| an assistant message's `audio`, `function_call` | never |

Accepted without effect: `user`, `metadata`, `store` (nothing is stored), `service_tier`, `safety_identifier`,
`parallel_tool_calls`, the `prompt_cache_*` fields, and the hints `prediction`, `reasoning_effort` and
`verbosity`.

Sources: OpenAI's API reference, https://platform.openai.com/docs/api-reference/chat/create; llama.cpp's
server for `top_k`, `min_p` and `repeat_penalty`.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from corral.dialects.wire import decode
from corral.errors import InvalidRequest
from corral.request import GenerationRequest, Message, Role, Sampling, ToolCall


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


class _ToolCall(msgspec.Struct, tag_field="type", tag="function"):
    id: str
    function: _Function


class _Assistant(msgspec.Struct, tag_field="role", tag="assistant"):
    content: str | list[_TextPart | _RefusalPart] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    audio: object = None
    function_call: object = None


class _ToolResult(msgspec.Struct, tag_field="role", tag="tool"):
    content: _Text
    tool_call_id: str
    name: str | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


_Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Token = Annotated[int, Meta(ge=0, le=2**31 - 1)]  # a llama_token is 32 bits
_Bias = Annotated[float, Meta(ge=-100, le=100)]
_Stop = Annotated[
    str, Meta(min_length=1, max_length=256)
]  # the stop finder's set-up takes time per character


class _Refused(msgspec.Struct):
    """Known fields whose effect corral does not have."""

    audio: object = None
    best_of: object = None
    echo: object = None
    function_call: object = None
    functions: object = None
    grammar: object = None
    guided_choice: object = None
    guided_grammar: object = None
    guided_json: object = None
    guided_regex: object = None
    ignore_eos: object = None
    json_schema: object = None
    min_tokens: object = None
    mirostat: object = None
    modalities: object = None
    moderation: object = None
    repetition_penalty: object = None
    response_format: object = None
    structured_outputs: object = None
    tool_choice: object = None
    tools: object = None
    typical_p: object = None
    web_search_options: object = None


_HARMLESS: Final[dict[str, object]] = {
    "best_of": 1,
    "echo": False,
    "function_call": "none",
    "functions": [],
    "ignore_eos": False,
    "min_tokens": 0,
    "mirostat": 0,
    "modalities": ["text"],
    "repetition_penalty": 1,
    "response_format": {"type": "text"},
    "tool_choice": "none",
    "tools": [],
    "typical_p": 1,
}
"""The value with which a refused field asks for what happens anyway, where there is one."""


class ChatBody(_Refused, kw_only=True):
    """The body as it came, every field of the right type and in its range."""

    messages: Annotated[
        list[_System | _Developer | _User | _Assistant | _ToolResult],
        Meta(min_length=1),
    ]
    model: str | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: _Share | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: _Share | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    logit_bias: dict[_Token, _Bias] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: _Stop | Annotated[list[_Stop], Meta(max_length=16)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


_decoder: Final = msgspec.json.Decoder(ChatBody)
_ROLES: Final[dict[type[_Spoken], Role]] = {_System: "system", _Developer: "developer", _User: "user"}


def read_chat(body: bytes) -> ChatBody:
    """Read a request body; raises InvalidRequest with the `param` OpenAI would name."""
    chat = decode(_decoder, body)
    _refuse_what_has_no_effect(chat)
    return chat


def generation_request(chat: ChatBody) -> GenerationRequest:
    """What a body asks for; raises InvalidRequest."""
    return GenerationRequest(
        messages=_messages(chat),
        sampling=_sampling(chat),
        max_tokens=_max_tokens(chat),
        stop=_stop(chat),
        top_logprobs=_top_logprobs(chat),
        n=chat.n or 1,
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


def _refuse_what_has_no_effect(chat: ChatBody) -> None:
    for field in _Refused.__struct_fields__:
        value = getattr(chat, field)
        if value is not None and (field not in _HARMLESS or value != _HARMLESS[field]):
            raise InvalidRequest(f"'{field}' is not supported by this server.", param=field)


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
    calls = [
        ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()
    ]
    return Message("assistant", _joined(content or ""), message.name, tool_calls=tuple(calls))


def _joined(content: _Text | list[_TextPart | _RefusalPart]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text if isinstance(part, _TextPart) else part.refusal for part in content)


def _sampling(chat: ChatBody) -> Sampling:
    names = (
        "temperature",
        "top_p",
        "min_p",
        "repeat_penalty",
        "frequency_penalty",
        "presence_penalty",
        "seed",
    )
    given = {name: value for name in names if (value := getattr(chat, name)) is not None}
    if chat.top_k is not None:
        given["top_k"] = max(chat.top_k, 0)
    return Sampling(**given, logit_bias=tuple((chat.logit_bias or {}).items()))


def _max_tokens(chat: ChatBody) -> int | None:
    old, new = chat.max_tokens, chat.max_completion_tokens
    if old is not None and new is not None and old != new:
        what = "'max_tokens' is the old name of 'max_completion_tokens': they cannot differ."
        raise InvalidRequest(what, param="max_tokens")
    return old if new is None else new


def _stop(chat: ChatBody) -> tuple[str, ...]:
    if isinstance(chat.stop, str):
        return (chat.stop,)
    return tuple(chat.stop or ())


def _top_logprobs(chat: ChatBody) -> int | None:
    if chat.logprobs:
        return chat.top_logprobs or 0
    if chat.top_logprobs is not None:
        raise InvalidRequest("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
    return None
