"""Tools and thoughts of a chat request: what `chat_request` leaves to be read here.

Sources: OpenAI's API reference, https://platform.openai.com/docs/api-reference/chat/create;
`thinking_token_budget` as in vLLM.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from corral.dialects.openai.custom import NO_PARAMETERS, custom_tool
from corral.dialects.openai.structure import GrammarFields
from corral.dialects.wire import NOTHING, parameters_of, present, value_of
from corral.errors import InvalidRequest
from corral.request import Thinking, Tool, ToolChoice


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


class ToolFields(GrammarFields):
    """Fields of a chat request about tools, thoughts and structure; null means absent."""

    tools: list[_FunctionTool | _CustomTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | _Choice | None = None
    parallel_tool_calls: bool | None = None
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


def template_kwargs_of(wire: ToolFields) -> str | None:
    """Variables for the model's template, as JSON; raises InvalidRequest where they are no object."""
    given = present(wire.chat_template_kwargs)
    if given is None:
        return None
    if not isinstance(value_of(given, "chat_template_kwargs"), dict):
        raise InvalidRequest("'chat_template_kwargs' must be an object.", param="chat_template_kwargs")
    return given.decode()


def _tool(tool: _FunctionTool | _CustomTool, path: str) -> Tool:
    if isinstance(tool, _CustomTool):
        return custom_tool(
            tool.custom.name, tool.custom.description, tool.custom.format, f"{path}.custom.format"
        )
    function = tool.function
    parameters = present(function.parameters)
    return Tool(
        function.name,
        function.description or "",
        NO_PARAMETERS if parameters is None else parameters_of(parameters, f"{path}.function.parameters"),
        is_strict=bool(function.strict),
    )


def _name(tool: _NamedTool | _Choice) -> str:
    named = tool.custom if tool.type == "custom" else tool.function
    if named is None:
        raise InvalidRequest("Missing required parameter: 'tool_choice.function.name'.", param="tool_choice")
    return named.name
