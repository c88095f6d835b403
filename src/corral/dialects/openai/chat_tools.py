"""Tools, thoughts and structure of a chat request: what `chat_request` leaves to be read here.

Sources: OpenAI's API reference, https://platform.openai.com/docs/api-reference/chat/create; `grammar` and
`json_schema` as in llama-server; `guided_*`, `structured_outputs` and `thinking_token_budget` as in vLLM;
`regex` and `ebnf` as in SGLang.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from corral.dialects.openai.custom import NO_PARAMETERS, custom_tool
from corral.dialects.openai.sampling import SamplingFields
from corral.dialects.wire import NOTHING, present
from corral.errors import InvalidRequest
from corral.request import Grammar, GrammarKind, Thinking, Tool, ToolChoice


class _Function(msgspec.Struct):
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str | None = None
    parameters: msgspec.Raw = NOTHING
    strict: bool | None = None


class _Custom(msgspec.Struct):
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str | None = None
    format: msgspec.Raw = NOTHING


class _FunctionTool(msgspec.Struct, tag_field="type", tag="function"):
    function: _Function


class _CustomTool(msgspec.Struct, tag_field="type", tag="custom"):
    custom: _Custom


class _Named(msgspec.Struct):
    name: str


class _NamedTool(msgspec.Struct):
    type: Literal["function", "custom"] = "function"
    function: _Named | None = None
    custom: _Named | None = None


class _Allowed(msgspec.Struct):
    mode: Literal["auto", "required"]
    tools: list[_NamedTool]


class _Choice(msgspec.Struct):
    type: Literal["function", "custom", "allowed_tools"]
    function: _Named | None = None
    custom: _Named | None = None
    allowed_tools: _Allowed | None = None


class _Schema(msgspec.Struct):
    name: str = ""
    description: str | None = None
    schema: msgspec.Raw = NOTHING
    strict: bool | None = None


class _Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema", "grammar"]
    json_schema: _Schema | None = None
    schema: msgspec.Raw = NOTHING
    grammar: str | None = None


class _Structured(msgspec.Struct):
    json: msgspec.Raw = NOTHING
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class ToolFields(SamplingFields):
    """Fields of a chat request about tools, thoughts and structure; null means absent."""

    tools: list[_FunctionTool | _CustomTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | _Choice | None = None
    parallel_tool_calls: bool | None = None
    response_format: _Format | None = None
    grammar: str | None = None
    json_schema: msgspec.Raw = NOTHING
    guided_json: msgspec.Raw = NOTHING
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: _Structured | None = None
    regex: str | None = None
    ebnf: str | None = None
    reasoning_effort: str | None = None
    thinking_token_budget: Annotated[int, Meta(ge=0)] | None = None
    thinking_budget_tokens: Annotated[int, Meta(ge=-1)] | None = None
    reasoning_budget_tokens: Annotated[int, Meta(ge=-1)] | None = None
    chat_template_kwargs: msgspec.Raw = NOTHING


def tools_of(wire: ToolFields) -> tuple[Tool, ...]:
    """The tools that may be called; raises InvalidRequest."""
    tools = []
    names: set[str] = set()
    for index, tool in enumerate(wire.tools or ()):
        one = _tool(tool, f"tools[{index}]")
        if one.name in names:
            raise InvalidRequest(f"There are two tools named '{one.name}'.", param=f"tools[{index}]")
        names.add(one.name)
        tools.append(one)
    return tuple(tools)


def custom_tools(wire: ToolFields) -> frozenset[str]:
    """The tools that take a free text."""
    return frozenset(tool.custom.name for tool in wire.tools or () if isinstance(tool, _CustomTool))


def choice_of(wire: ToolFields) -> ToolChoice:
    """Which tools may or must be called; raises InvalidRequest."""
    choice = wire.tool_choice
    if choice is None or isinstance(choice, str):
        if choice == "required" and not wire.tools:
            raise InvalidRequest("'tool_choice' needs 'tools' to choose from.", param="tool_choice")
        return ToolChoice(choice or "auto")
    if choice.type == "allowed_tools":
        if choice.allowed_tools is None:
            what = "Missing required parameter: 'tool_choice.allowed_tools'."
            raise InvalidRequest(what, param="tool_choice.allowed_tools")
        named = [_name(tool) for tool in choice.allowed_tools.tools]
        mode = choice.allowed_tools.mode
    else:
        named, mode = [_name(choice)], "required"
    known = {tool.name for tool in tools_of(wire)}
    for name in named:
        if name not in known:
            raise InvalidRequest(f"There is no tool named '{name}'.", param="tool_choice")
    if not named:
        raise InvalidRequest("'tool_choice' allows no tool.", param="tool_choice.allowed_tools.tools")
    return ToolChoice(mode, tuple(named))


def thinking_of(wire: ToolFields) -> Thinking:
    """How the model shall think; raises InvalidRequest where two budgets differ."""
    names = ("thinking_token_budget", "thinking_budget_tokens", "reasoning_budget_tokens")
    budgets = {name: value for name in names if (value := getattr(wire, name)) is not None and value >= 0}
    if len(set(budgets.values())) > 1:
        first, other = list(budgets)[:2]
        raise InvalidRequest(f"'{other}' is another name of '{first}': they cannot differ.", param=other)
    budget = next(iter(budgets.values()), None)
    effort = wire.reasoning_effort
    if effort == "none":
        return Thinking(is_on=False, budget_tokens=budget)
    return Thinking(is_on=None if effort is None else True, effort=effort, budget_tokens=budget)


def template_kwargs_of(wire: ToolFields) -> msgspec.Raw | None:
    """Variables for the model's template; raises InvalidRequest where they are no object."""
    given = present(wire.chat_template_kwargs)
    if given is None:
        return None
    if not given.startswith(b"{"):
        raise InvalidRequest("'chat_template_kwargs' must be an object.", param="chat_template_kwargs")
    return msgspec.Raw(given)


def grammar_of(wire: ToolFields) -> Grammar | None:
    """What the answer must look like; raises InvalidRequest for two wishes at once."""
    found = list(_grammars(wire))
    if len(found) > 1:
        first, other = found[:2]
        raise InvalidRequest(f"'{other.param}' cannot go with '{first.param}'.", param=other.param)
    return found[0] if found else None


def _grammars(wire: ToolFields) -> Iterator[Grammar]:
    if wire.response_format is not None:
        yield from _of_format(wire.response_format)
    if wire.structured_outputs is not None:
        yield from _of_structured(wire.structured_outputs)
    for param in ("json_schema", "guided_json"):
        if (schema := present(getattr(wire, param))) is not None:
            yield Grammar("json_schema", _schema(schema, param), param)
    kinds: tuple[tuple[str, GrammarKind], ...] = (
        ("guided_regex", "regex"),
        ("regex", "regex"),
        ("grammar", "gbnf"),
        ("guided_grammar", "lark"),
        ("ebnf", "gbnf"),
    )
    for param, kind in kinds:
        if source := getattr(wire, param):
            yield Grammar(_kind(kind, source), source, param)
    if wire.guided_choice is not None:
        yield _choice(wire.guided_choice, "guided_choice")


def _of_format(form: _Format) -> Iterator[Grammar]:
    match form.type:
        case "json_object":
            schema = present(form.schema)  # llama-server's
            if schema is None:
                yield Grammar("json_object", "", "response_format")
            else:
                yield Grammar(
                    "json_schema", _schema(schema, "response_format.schema"), "response_format.schema"
                )
        case "json_schema":
            param = "response_format.json_schema.schema"
            schema = (
                present(form.json_schema.schema) if form.json_schema is not None else present(form.schema)
            )
            if schema is None:
                raise InvalidRequest(f"Missing required parameter: '{param}'.", param=param)
            yield Grammar("json_schema", _schema(schema, param), param)
        case "grammar":
            param = "response_format.grammar"
            if not form.grammar:
                raise InvalidRequest(f"Missing required parameter: '{param}'.", param=param)
            yield Grammar(_kind("lark", form.grammar), form.grammar, param)
        case "text":
            return


def _of_structured(wanted: _Structured) -> Iterator[Grammar]:
    where = "structured_outputs"
    if (schema := present(wanted.json)) is not None:
        yield Grammar("json_schema", _schema(schema, f"{where}.json"), f"{where}.json")
    if wanted.regex:
        yield Grammar("regex", wanted.regex, f"{where}.regex")
    if wanted.choice is not None:
        yield _choice(wanted.choice, f"{where}.choice")
    if wanted.grammar:
        yield Grammar(_kind("lark", wanted.grammar), wanted.grammar, f"{where}.grammar")
    if wanted.json_object:
        yield Grammar("json_object", "", f"{where}.json_object")


def _choice(words: list[str], param: str) -> Grammar:
    if not words or not all(words):
        raise InvalidRequest(f"'{param}' must have strings to choose from, none of them empty.", param=param)
    return Grammar("choice", msgspec.json.encode(words).decode(), param)


def _kind(kind: GrammarKind, source: str) -> GrammarKind:
    """Lark or GBNF, which some servers take by one name: `::=` is in every GBNF, and in no Lark."""
    return ("gbnf" if "::=" in source else "lark") if kind in ("lark", "gbnf") else kind


def _schema(schema: bytes, param: str) -> str:
    """A JSON schema, which some clients send as a text."""
    if schema.startswith(b'"'):
        schema = msgspec.json.decode(schema, type=str).encode()
    if schema.strip()[:1] not in (b"{", b"t", b"f"):
        raise InvalidRequest(f"'{param}' must be a JSON schema.", param=param)
    return schema.decode()


def _tool(tool: _FunctionTool | _CustomTool, path: str) -> Tool:
    if isinstance(tool, _CustomTool):
        return custom_tool(
            tool.custom.name, tool.custom.description, tool.custom.format, f"{path}.custom.format"
        )
    function = tool.function
    parameters = present(function.parameters)
    if parameters is not None and not parameters.startswith(b"{"):
        param = f"{path}.function.parameters"
        raise InvalidRequest(f"'{param}' must be a JSON schema of an object.", param=param)
    return Tool(
        function.name,
        function.description or "",
        NO_PARAMETERS if parameters is None else msgspec.Raw(parameters),
        is_strict=bool(function.strict),
    )


def _name(tool: _NamedTool | _Choice) -> str:
    named = tool.custom if tool.type == "custom" else tool.function
    if named is None:
        raise InvalidRequest("Missing required parameter: 'tool_choice.function.name'.", param="tool_choice")
    return named.name
