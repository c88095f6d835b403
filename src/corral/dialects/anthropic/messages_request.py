"""Requests of `POST /v1/messages`, parsed.

What is taken of it, and what not, is in `fields`.

Claude Code puts a block with a random number before its system prompt, another with every request. Kept, it
would change the first tokens of every prompt, and no prefix could ever be reused.

Sources: https://docs.anthropic.com/en/api/messages and the types of anthropic-python 2.14.
"""

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from corral.dialects.anthropic.fields import REFUSED
from corral.dialects.fields import refuse
from corral.dialects.seal import Seal
from corral.dialects.wire import NOTHING, decode, parameters_of, present, schema_of
from corral.errors import InvalidRequest
from corral.request import (
    GenerationRequest,
    Grammar,
    Message,
    Sampling,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
)

BILLING_HEADER: Final = "x-anthropic-billing-header"
ANTHROPIC_CALL, OUR_CALL = "toolu_", "call_"


class _Text(msgspec.Struct, tag_field="type", tag="text"):
    text: str


class _Thinking(msgspec.Struct, tag_field="type", tag="thinking"):
    thinking: str
    signature: str | None = None


class _RedactedThinking(msgspec.Struct, tag_field="type", tag="redacted_thinking"):
    data: str


class _ToolUse(msgspec.Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: msgspec.Raw


class _Image(msgspec.Struct, tag_field="type", tag="image"):
    source: object = None


class _Source(msgspec.Struct):
    type: str
    data: str = ""
    media_type: str = ""
    content: str | list[_Text | _Image] | None = None


class _Citations(msgspec.Struct):
    enabled: bool | None = None


class _Document(msgspec.Struct, tag_field="type", tag="document"):
    source: _Source
    title: str | None = None
    context: str | None = None
    citations: _Citations | None = None


class _SearchResult(msgspec.Struct, tag_field="type", tag="search_result"):
    source: str
    title: str
    content: list[_Text]
    citations: _Citations | None = None


_Shown = _Text | _Image | _Document | _SearchResult


class _ToolResult(msgspec.Struct, tag_field="type", tag="tool_result"):
    tool_use_id: str
    content: str | list[_Shown] | None = None
    is_error: bool | None = None


_UserBlock = _Shown | _ToolResult
_AssistantBlock = _Text | _Thinking | _RedactedThinking | _ToolUse


class _User(msgspec.Struct, tag_field="role", tag="user"):
    content: str | list[_UserBlock]


class _Assistant(msgspec.Struct, tag_field="role", tag="assistant"):
    content: str | list[_AssistantBlock]


class _System(msgspec.Struct, tag_field="role", tag="system"):
    content: str | list[_Text]


class _Tool(msgspec.Struct):
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    type: str | None = None
    description: str | None = None
    input_schema: msgspec.Raw = NOTHING
    strict: bool | None = None


class _ToolChoice(msgspec.Struct):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _ThinkingMode(msgspec.Struct):
    type: str
    budget_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    display: str | None = None


class _Format(msgspec.Struct):
    type: str
    schema: msgspec.Raw = NOTHING


class _OutputConfig(msgspec.Struct):
    effort: str | None = None
    format: _Format | None = None


_Share = Annotated[float, Meta(ge=0, le=1)]
_Stop = Annotated[str, Meta(min_length=1, max_length=256)]


class _Prompt(msgspec.Struct, kw_only=True):
    """What both `/v1/messages` and `/v1/messages/count_tokens` take."""

    model: str
    messages: Annotated[list[_User | _Assistant | _System], Meta(min_length=1)]
    system: str | list[_Text] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: _ThinkingMode | None = None
    output_config: _OutputConfig | None = None
    output_format: _Format | None = None
    container: object = None
    mcp_servers: object = None
    compaction: object = None
    thread: object = None


class _Body(_Prompt, kw_only=True):
    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    stream: bool | None = None
    stop_sequences: Annotated[list[_Stop], Meta(max_length=16)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: _Share | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None


_decoder: Final = msgspec.json.Decoder(_Body)
_count_decoder: Final = msgspec.json.Decoder(_Prompt)


@dataclass(frozen=True, slots=True)
class MessagesRequest:
    """A request, and what only its dialect needs to know."""

    request: GenerationRequest
    model: str
    wants_stream: bool
    shows_thinking: bool


def parse_messages(body: bytes, seal: Seal) -> MessagesRequest:
    """Parse a request body; raises InvalidRequest with the `param` that is wrong."""
    wire = decode(_decoder, body)
    request = _request(
        wire,
        seal,
        max_tokens=wire.max_tokens,
        stop=tuple(wire.stop_sequences or ()),
        sampling=_sampling(wire),
    )
    shows_thinking = wire.thinking is None or wire.thinking.display != "omitted"
    return MessagesRequest(request, wire.model, bool(wire.stream), shows_thinking)


def parse_count(body: bytes, seal: Seal) -> GenerationRequest:
    """Parse a body of `count_tokens`; raises InvalidRequest."""
    return _request(decode(_count_decoder, body), seal, max_tokens=None, stop=(), sampling=Sampling())


def _request(
    wire: _Prompt, seal: Seal, *, max_tokens: int | None, stop: tuple[str, ...], sampling: Sampling
) -> GenerationRequest:
    refuse(wire, REFUSED)
    choice = wire.tool_choice
    return GenerationRequest(
        messages=_messages(wire, seal),
        sampling=sampling,
        max_tokens=max_tokens,
        is_clipped=True,
        stop=stop,
        tools=tuple(_tool(tool, index) for index, tool in enumerate(wire.tools or ())),
        tool_choice=_tool_choice(wire),
        calls_in_parallel=not (choice is not None and choice.disable_parallel_tool_use),
        thinking=_thinking(wire),
        grammar=_grammar(wire),
    )


def _sampling(wire: _Body) -> Sampling:
    names = ("temperature", "top_p", "top_k")
    given = {name: value for name in names if (value := getattr(wire, name)) is not None}
    return Sampling(**given, given=frozenset(given))


# Messages


def _messages(wire: _Prompt, seal: Seal) -> tuple[Message, ...]:
    messages = []
    if system := _system(wire.system):
        messages.append(Message("system", system))
    for index, message in enumerate(wire.messages):
        path = f"messages.{index}.content"
        match message:
            case _User():
                messages += _user(message.content, path)
            case _Assistant():
                messages.append(_assistant(message.content, seal))
            case _System():
                messages.append(Message("system", _joined(message.content)))
    if messages[-1].tool_calls:
        param = f"messages.{len(wire.messages) - 1}"
        raise InvalidRequest("`tool_use` must be followed by a message with its `tool_result`.", param=param)
    return tuple(messages)


def _system(system: str | list[_Text] | None) -> str:
    blocks = [system] if isinstance(system, str) else [block.text for block in system or ()]
    return "\n".join(text for text in blocks if not text.startswith(BILLING_HEADER))


def _user(content: str | list[_UserBlock], path: str) -> list[Message]:
    """Results first, as they answer the calls before them; then what the user says, as one message."""
    if isinstance(content, str):
        return [Message("user", content)]
    results: list[Message] = []
    texts: list[str] = []
    for index, block in enumerate(content):
        here = f"{path}.{index}"
        if isinstance(block, _ToolResult):
            inner = [block.content] if isinstance(block.content, str) else block.content or []
            text = "\n".join(_shown(part, f"{here}.content") for part in inner)
            call = _our_call(block.tool_use_id)
            results.append(Message("tool", text, tool_call_id=call, is_error=bool(block.is_error)))
        else:
            texts.append(_shown(block, here))
    if texts or not results:
        results.append(Message("user", "\n".join(texts)))
    return results


def _shown(part: str | _Shown, path: str) -> str:
    """The text of a part; raises InvalidRequest for what is no text, and where it is to be cited."""
    if isinstance(part, _Document | _SearchResult) and part.citations is not None and part.citations.enabled:
        raise InvalidRequest("Answers have no citations here.", param=f"{path}.citations")
    match part:
        case str():
            return part
        case _Text():
            return part.text
        case _Document(source=_Source(type="text")):
            return _joined_lines(part.title, part.context, part.source.data)
        case _Document(source=_Source(type="content", content=content)) if content is not None:
            inner = [content] if isinstance(content, str) else content
            texts = (_shown(block, f"{path}.source.content") for block in inner)
            return _joined_lines(part.title, part.context, *texts)
        case _SearchResult():
            return _joined_lines(part.title, part.source, *(block.text for block in part.content))
        case _:
            kind = "image" if isinstance(part, _Image) else "document"
            raise InvalidRequest(f"This model reads text only: it cannot take {kind} blocks.", param=path)


def _joined_lines(*texts: str | None) -> str:
    return "\n".join(filter(None, texts))


def _assistant(content: str | list[_AssistantBlock], seal: Seal) -> Message:
    if isinstance(content, str):
        return Message("assistant", content)
    calls = tuple(
        ToolCall(_our_call(block.id), block.name, bytes(block.input).decode())
        for block in content
        if isinstance(block, _ToolUse)
    )
    return Message(
        "assistant",
        "\n".join(block.text for block in content if isinstance(block, _Text)),
        tool_calls=calls,
        reasoning="\n".join(filter(None, (_thought(block, seal) for block in content))),
    )


def _thought(block: _AssistantBlock, seal: Seal) -> str:
    """What a block says the assistant thought. One that was left out comes back within its signature."""
    if not isinstance(block, _Thinking):
        return ""
    return block.thinking or seal.opened(block.signature or "") or ""


def _joined(content: str | list[_Text]) -> str:
    return content if isinstance(content, str) else "\n".join(block.text for block in content)


def _our_call(id: str) -> str:
    """A call's id as the engine gave it: on this API it begins as Anthropic's do."""
    return OUR_CALL + id.removeprefix(ANTHROPIC_CALL) if id.startswith(ANTHROPIC_CALL) else id


# Tools, thoughts, structure


def _tool(tool: _Tool, index: int) -> Tool:
    if tool.type not in (None, "custom"):
        what = f"'{tool.type}' is a tool of Anthropic's own; this server has only those with an input_schema."
        raise InvalidRequest(what, param=f"tools.{index}.type")
    schema = present(tool.input_schema)
    if schema is None:
        raise InvalidRequest("Field required.", param=f"tools.{index}.input_schema")
    if not schema.startswith(b"{"):
        raise InvalidRequest("An object is required.", param=f"tools.{index}.input_schema")
    parameters = parameters_of(schema, f"tools.{index}.input_schema")
    return Tool(tool.name, tool.description or "", parameters, is_strict=bool(tool.strict))


def _tool_choice(wire: _Prompt) -> ToolChoice:
    choice = wire.tool_choice
    if choice is None:
        return ToolChoice()
    if choice.type not in ("auto", "any", "tool", "none"):
        raise InvalidRequest("It is one of auto, any, tool and none.", param="tool_choice.type")
    if choice.type in ("auto", "none"):
        return ToolChoice("auto" if choice.type == "auto" else "none")
    names = {tool.name for tool in wire.tools or ()}
    if not names:
        raise InvalidRequest("It needs tools to choose from.", param="tool_choice")
    if choice.type == "any":
        return ToolChoice("required")
    if choice.name not in names:
        raise InvalidRequest(f"There is no tool named {choice.name!r}.", param="tool_choice.name")
    return ToolChoice("required", (choice.name,))


def _thinking(wire: _Prompt) -> Thinking:
    mode, effort = wire.thinking, None if wire.output_config is None else wire.output_config.effort
    if mode is None:
        return Thinking(effort=effort)
    match mode.type:
        case "enabled":
            return Thinking(is_on=True, effort=effort, budget_tokens=mode.budget_tokens)
        case "disabled":
            return Thinking(is_on=False, effort=effort)
        case "adaptive" | "between_tools":
            return Thinking(effort=effort, budget_tokens=mode.budget_tokens)
        case _:
            what = "It is one of enabled, disabled, adaptive and between_tools."
            raise InvalidRequest(what, param="thinking.type")


def _grammar(wire: _Prompt) -> Grammar | None:
    where, form = "output_format", wire.output_format
    if wire.output_config is not None and wire.output_config.format is not None:
        where, form = "output_config.format", wire.output_config.format
    if form is None:
        return None
    schema = present(form.schema)
    if form.type != "json_schema" or schema is None:
        raise InvalidRequest("It is of type json_schema and has a schema.", param=where)
    return Grammar("json_schema", schema_of(schema, f"{where}.schema"), f"{where}.schema")
