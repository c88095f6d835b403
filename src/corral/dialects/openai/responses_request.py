"""Requests of `POST /v1/responses`, parsed.

What is taken of it, and what not, is in `responses_fields`.

Sources: https://platform.openai.com/docs/api-reference/responses/create and the types of openai-python 3.57.
"""

import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from corral.dialects.fields import refuse
from corral.dialects.openai.custom import NO_PARAMETERS, custom_tool
from corral.dialects.openai.responses_fields import REFUSED
from corral.dialects.openai.responses_store import OwnResponses, Turn
from corral.dialects.seal import Seal
from corral.dialects.wire import NOTHING, decode, parameters_of, present, schema_of
from corral.errors import InvalidRequest, PreviousResponseNotFound
from corral.request import (
    GenerationRequest,
    Grammar,
    Message,
    Role,
    Sampling,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
)

_ROLES: Final[dict[str, Role]] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "developer": "developer",
}
ID_BYTES: Final = 12
_ID_PREFIXES: Final = {"message": "msg", "reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc"}


class Part(msgspec.Struct, omit_defaults=True):
    """A part of a message, of a thought, or of a call's output."""

    type: str
    text: str | None = None
    refusal: str | None = None


class Item(msgspec.Struct, omit_defaults=True):
    """Any item of `input`: what a type does not have is None. A message may come without its type."""

    type: str | None = None
    id: str | None = None
    status: str | None = None
    role: str | None = None
    content: str | list[Part] | None = None
    summary: list[Part] | None = None
    encrypted_content: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: str | list[Part] | None = None
    action: msgspec.Raw = NOTHING
    operation: msgspec.Raw = NOTHING


class _Tool(msgspec.Struct, omit_defaults=True):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: msgspec.Raw = NOTHING
    strict: bool | None = None
    format: msgspec.Raw = NOTHING
    tools: list["_Tool"] | None = None


class _NamedTool(msgspec.Struct, omit_defaults=True):
    type: str
    name: str | None = None


class _ToolChoice(msgspec.Struct, omit_defaults=True):
    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[_NamedTool] | None = None


class _Reasoning(msgspec.Struct):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class _Format(msgspec.Struct, omit_defaults=True):
    type: str
    name: str | None = None
    schema: msgspec.Raw = NOTHING
    strict: bool | None = None


class _Text(msgspec.Struct):
    format: _Format | None = None
    verbosity: str | None = None


_MetadataKey = Annotated[str, Meta(max_length=64)]
_MetadataValue = Annotated[str, Meta(max_length=512)]


class _Body(msgspec.Struct, kw_only=True):
    input: str | list[Item] | None = None
    model: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | _ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: _Reasoning | None = None
    text: _Text | None = None
    include: list[str] | None = None
    store: bool | None = None
    stream: bool | None = None
    metadata: Annotated[dict[_MetadataKey, _MetadataValue], Meta(max_length=16)] | None = None
    user: str | None = None
    background: object = None
    conversation: object = None
    prompt: object = None
    truncation: object = None
    moderation: object = None
    personality: object = None
    stream_options: object = None


_decoder: Final = msgspec.json.Decoder(_Body)
_Names = Mapping[tuple[str | None, str], str]
"""What the model knows a tool as, by its namespace and the name that it has there."""

_item_decoder: Final = msgspec.json.Decoder(list[Item])
_json: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Echo:
    """What of a request its response repeats, as JSON values."""

    instructions: str | None
    previous_response_id: str | None
    max_output_tokens: int | None
    temperature: float
    top_p: float
    tools: msgspec.Raw
    tool_choice: msgspec.Raw
    parallel_tool_calls: bool
    reasoning: msgspec.Raw
    text: msgspec.Raw
    metadata: dict[str, str]
    user: str | None
    store: bool


@dataclass(frozen=True, slots=True)
class OwnTool:
    """A tool as its client calls it. Where `is_custom`, its input is free text."""

    name: str
    namespace: str | None = None
    is_custom: bool = False


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    """A request, and what only its dialect needs to know.

    `items` are its own input, `history` the turns of the conversation before it. `tools` are the tools of the
    client by the names that the model knows them by.
    """

    request: GenerationRequest
    model: str | None
    wants_stream: bool
    stores: bool
    shows_summary: bool
    seals_thoughts: bool
    items: tuple[Item, ...]
    echo: Echo
    history: tuple[Turn, ...] = ()
    tools: Mapping[str, OwnTool] = field(default_factory=dict)


def parse_responses(body: bytes, seal: Seal, own: OwnResponses) -> ResponsesRequest:
    """Parse a request body; raises InvalidRequest, also where `previous_response_id` is not known."""
    wire = decode(_decoder, body)
    refuse(wire, REFUSED)
    history: tuple[Turn, ...] = ()
    if wire.previous_response_id is not None:
        found = own.conversation(wire.previous_response_id)
        if found is None:
            raise PreviousResponseNotFound(
                f"Previous response with id '{wire.previous_response_id}' not found.",
                param="previous_response_id",
            )
        history = found
    items = _items(wire, own)
    tools = _named(_flat(wire.tools or (), None))
    names = {(own_tool.namespace, own_tool.name): tool.name for tool, own_tool in tools}
    include = set(wire.include or ())
    before = [item for turn in history for item in items_of(turn)]
    messages = _messages(wire.instructions, (*before, *items), names, seal)
    stores = wire.store is not False and own.store.keeps
    request = GenerationRequest(
        messages=messages,
        sampling=_sampling(wire),
        max_tokens=wire.max_output_tokens,
        is_clipped=True,
        top_logprobs=(wire.top_logprobs or 0) if "message.output_text.logprobs" in include else None,
        tools=tuple(tool for tool, _ in tools),
        tool_choice=_tool_choice(wire, names),
        calls_in_parallel=wire.parallel_tool_calls is not False,
        thinking=_thinking(wire.reasoning),
        grammar=_grammar(wire.text),
    )
    return ResponsesRequest(
        request=request,
        model=wire.model,
        wants_stream=bool(wire.stream),
        stores=stores,
        shows_summary=bool(wire.reasoning and (wire.reasoning.summary or wire.reasoning.generate_summary)),
        seals_thoughts="reasoning.encrypted_content" in include,
        items=items,
        history=history,
        echo=_echo(wire, stores=stores),
        tools={tool.name: own_tool for tool, own_tool in tools},
    )


def _sampling(wire: _Body) -> Sampling:
    given = {name: value for name in ("temperature", "top_p") if (value := getattr(wire, name)) is not None}
    return Sampling(**given, given=frozenset(given))


# Input


def items_of(turn: Turn) -> list[Item]:
    """The items of a turn, asked and said."""
    return [*_item_decoder.decode(turn.asked), *_item_decoder.decode(turn.said)]


def listed(item: Item) -> Item:
    """An item of a request as the API lists it: with an id, its type, and its content in parts."""
    kind = item.type or "message"
    content = item.content
    if isinstance(content, str):
        content = [Part("output_text" if item.role == "assistant" else "input_text", content)]
    id = item.id or f"{_ID_PREFIXES.get(kind, 'item')}_{secrets.token_hex(ID_BYTES)}"
    return msgspec.structs.replace(item, id=id, type=kind, content=content, status=item.status or "completed")


def _items(wire: _Body, own: OwnResponses) -> tuple[Item, ...]:
    if wire.input is None:
        if wire.previous_response_id is None:
            raise InvalidRequest("Missing required parameter: 'input'.", param="input")
        return ()
    if isinstance(wire.input, str):
        return (Item(type="message", role="user", content=wire.input),)
    return tuple(
        _referred(item, index, own) if item.type == "item_reference" else item
        for index, item in enumerate(wire.input)
    )


def _referred(item: Item, index: int, own: OwnResponses) -> Item:
    """The item that a reference stands for: clients send these instead of what is stored here."""
    turn = own.turn_with(item.id or "")
    if turn is None:
        raise InvalidRequest(f"Item with id '{item.id}' not found.", param=f"input[{index}]")
    return next(found for found in items_of(turn) if found.id == item.id)


def _messages(
    instructions: str | None, items: Sequence[Item], names: _Names, seal: Seal
) -> tuple[Message, ...]:
    """The conversation: what the assistant thought, said and called in a row is one message."""
    messages = [] if not instructions else [Message("system", instructions)]
    turn = _Turn()
    for index, item in enumerate(items):
        path = f"input[{index}]"
        kind = item.type or "message"
        if kind == "message" and item.role == "assistant":
            turn.texts.append(_text(item.content, f"{path}.content"))
        elif kind == "reasoning":
            turn.thoughts.append(_thought(item, seal))
        elif kind in ("function_call", "custom_tool_call") or (
            kind.endswith("_call") and item.call_id is not None
        ):
            turn.calls.append(_call(item, kind, names, path))
        elif kind == "message":
            messages += turn.taken()
            role = _ROLES.get(item.role or "")
            if role is None:
                raise InvalidRequest(f"Invalid '{path}.role': {item.role!r}.", param=f"{path}.role")
            messages.append(Message(role, _text(item.content, f"{path}.content")))
        elif kind.endswith("_call_output"):
            messages += turn.taken()
            if item.call_id is None:
                raise InvalidRequest(
                    f"Missing required parameter: '{path}.call_id'.", param=f"{path}.call_id"
                )
            output = _text(item.output, f"{path}.output")
            messages.append(Message("tool", output, tool_call_id=item.call_id))
        # What hosted tools did elsewhere (web_search_call and its kin) says nothing to this model.
    messages += turn.taken()
    if not messages:
        raise InvalidRequest("'input' is empty.", param="input")
    if messages[-1].tool_calls:
        raise InvalidRequest(
            f"No tool output found for function call {messages[-1].tool_calls[-1].id}.", param="input"
        )
    return tuple(messages)


@dataclass(slots=True)
class _Turn:
    """The items of an assistant's turn so far."""

    thoughts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)

    def taken(self) -> list[Message]:
        """Its message, if there is one; the next turn begins empty."""
        thoughts, texts, calls = self.thoughts, self.texts, self.calls
        self.thoughts, self.texts, self.calls = [], [], []
        if not (texts or calls):
            return []  # a thought that led to nothing
        reasoning = "\n".join(filter(None, thoughts))
        return [Message("assistant", "\n".join(texts), tool_calls=tuple(calls), reasoning=reasoning)]


def _text(content: str | list[Part] | None, path: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for index, part in enumerate(content):
        text = part.text if part.text is not None else part.refusal
        if text is None:
            what = f"Invalid '{path}[{index}]': this model reads text only, it cannot take {part.type}."
            raise InvalidRequest(what, param=f"{path}[{index}]")
        texts.append(text)
    return "\n".join(texts)


def _thought(item: Item, seal: Seal) -> str:
    """What the assistant thought: as it is, or sealed by us. Somebody else's seal says nothing to us."""
    if isinstance(item.content, list) and item.content:
        return "".join(part.text or "" for part in item.content)
    if item.encrypted_content and (thought := seal.opened(item.encrypted_content)) is not None:
        return thought
    return "\n".join(part.text or "" for part in item.summary or ())


def _call(item: Item, kind: str, names: _Names, path: str) -> ToolCall:
    """A call that a client ran: of a function, of a custom tool, or of what it has by another name."""
    is_named = kind in ("function_call", "custom_tool_call")
    for name in ("call_id", "name") if is_named else ("call_id",):
        if getattr(item, name) is None:
            raise InvalidRequest(f"Missing required parameter: '{path}.{name}'.", param=f"{path}.{name}")
    if kind == "custom_tool_call":
        arguments = _json.encode({"input": item.input or ""}).decode()
    elif kind == "function_call":
        arguments = item.arguments or "{}"
    else:  # local_shell_call and its kin
        raw = present(item.action) or present(item.operation) or b"{}"
        arguments = raw.decode()
    name = item.name or kind.removesuffix("_call")
    return ToolCall(item.call_id or "", names.get((item.namespace, name), name), arguments)


# Tools, thoughts, structure


def _named(tools: Iterable[tuple[Tool, OwnTool]]) -> list[tuple[Tool, OwnTool]]:
    """The tools by names that differ: those of a namespace get its name too, where another has theirs."""
    tools = list(tools)
    counts = Counter(tool.name for tool, _ in tools)
    return [
        (
            replace(tool, name=f"{own_tool.namespace}__{tool.name}")
            if counts[tool.name] > 1 and own_tool.namespace
            else tool,
            own_tool,
        )
        for tool, own_tool in tools
    ]


def _flat(tools: Iterable[_Tool], namespace: str | None) -> Iterator[tuple[Tool, OwnTool]]:
    """The tools that a client runs."""
    for index, tool in enumerate(tools):
        if tool.type == "namespace":
            yield from _flat(tool.tools or (), tool.name)
        elif tool.type in ("function", "custom"):
            if not tool.name:
                raise InvalidRequest(f"Missing required parameter: 'tools[{index}].name'.", param="tools")
            if tool.type == "custom":
                custom = OwnTool(tool.name, namespace, is_custom=True)
                yield (
                    custom_tool(tool.name, tool.description, tool.format, f"tools[{index}].format"),
                    custom,
                )
            else:
                given = present(tool.parameters)
                parameters = (
                    NO_PARAMETERS if given is None else parameters_of(given, f"tools[{index}].parameters")
                )
                function = Tool(tool.name, tool.description or "", parameters, is_strict=bool(tool.strict))
                yield function, OwnTool(tool.name, namespace)


def _tool_choice(wire: _Body, names: _Names) -> ToolChoice:
    choice = wire.tool_choice
    if choice is None or choice == "auto":
        return ToolChoice()
    if choice == "none":
        return ToolChoice("none")
    if isinstance(choice, str):
        if choice != "required":
            raise InvalidRequest(f"Invalid 'tool_choice': {choice!r}.", param="tool_choice")
        return ToolChoice("required")
    if choice.type in ("function", "custom"):
        wanted = [choice.name or ""]
        mode: Literal["auto", "required"] = "required"
    elif choice.type == "allowed_tools":
        wanted = [tool.name for tool in choice.tools or () if tool.name]
        mode = choice.mode or "auto"
    else:
        return ToolChoice()  # a hosted tool, which is not here
    shown: list[str] = []
    for name in wanted:
        found = [known for (_, own_name), known in names.items() if own_name == name]
        if not found:
            raise InvalidRequest(f"There is no tool named {name!r}.", param="tool_choice")
        shown += found
    return ToolChoice(mode, tuple(shown))


def _thinking(reasoning: _Reasoning | None) -> Thinking:
    if reasoning is None or reasoning.effort is None:
        return Thinking()
    if reasoning.effort == "none":
        return Thinking(is_on=False)
    return Thinking(is_on=True, effort=reasoning.effort)


def _grammar(text: _Text | None) -> Grammar | None:
    form = None if text is None else text.format
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return Grammar("json_object", "", "text.format")
    schema = present(form.schema)
    if form.type == "json_schema" and schema is not None:
        return Grammar("json_schema", schema_of(schema, "text.format.schema"), "text.format.schema")
    raise InvalidRequest(
        "'text.format' is text, json_object, or json_schema with a schema.", param="text.format"
    )


def _echo(wire: _Body, *, stores: bool) -> Echo:
    choice = wire.tool_choice if wire.tool_choice is not None else "auto"
    reasoning = wire.reasoning or _Reasoning()
    sampling = Sampling()
    form = wire.text.format if wire.text is not None and wire.text.format is not None else _Format("text")
    return Echo(
        instructions=wire.instructions,
        previous_response_id=wire.previous_response_id,
        max_output_tokens=wire.max_output_tokens,
        temperature=sampling.temperature if wire.temperature is None else wire.temperature,
        top_p=sampling.top_p if wire.top_p is None else wire.top_p,
        tools=_raw(wire.tools or []),
        tool_choice=_raw(choice),
        parallel_tool_calls=wire.parallel_tool_calls is not False,
        reasoning=_raw({"effort": reasoning.effort, "summary": reasoning.summary}),
        text=_raw({"format": form}),
        metadata=wire.metadata or {},
        user=wire.user,
        store=stores,
    )


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(_json.encode(value))
