"""A request in the shape that chat templates expect: messages and tools as plain dictionaries.

Every text of the client's goes through a `mark`, and nothing else does: names of fields, roles and types are
not the client's. What is JSON is parsed first, since in JSON any text can be spelled in other letters.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from corral.errors import InvalidRequest
from corral.request import GenerationRequest, Message, Tool, ToolCall

_RESERVED = frozenset(("messages", "tools", "add_generation_prompt", "bos_token", "eos_token"))


SURROGATE = "the conversation holds half of a surrogate pair, which is no character"

Mark = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a template takes. The defaults are what nearly all of them do."""

    knows_developer: bool = False
    arguments: Literal["object", "string"] = "object"
    reasoning_field: str | None = "reasoning_content"


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a template is given, and the text put behind it: the start of an answer to be continued."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    kwargs: dict[str, Any]
    continued: str = ""


def shaped(request: GenerationRequest, shape: Shape, mark: Mark = str) -> Conversation:
    """The conversation of a request. A last message of the assistant is left open, to be continued.

    Raises InvalidRequest for what is no JSON, or no JSON object, where there has to be one.
    """
    messages = request.messages
    last = messages[-1] if messages else None
    continued = last if last is not None and last.role == "assistant" and not last.tool_calls else None
    return Conversation(
        messages=[_message(message, shape, mark) for message in (messages[:-1] if continued else messages)],
        tools=[_tool(tool, mark) for tool in request.tools],
        kwargs=_kwargs(request, mark),
        continued=mark(continued.content) if continued else "",
    )


def _message(message: Message, shape: Shape, mark: Mark) -> dict[str, Any]:
    is_renamed = message.role == "developer" and not shape.knows_developer
    written: dict[str, Any] = {
        "role": "system" if is_renamed else message.role,
        "content": mark(message.content),
    }
    if message.name is not None:
        written["name"] = mark(message.name)
    if message.tool_call_id is not None:
        written["tool_call_id"] = mark(message.tool_call_id)
    if message.reasoning and shape.reasoning_field:
        written[shape.reasoning_field] = mark(message.reasoning)
    if message.tool_calls:
        written["tool_calls"] = [_call(call, shape, mark) for call in message.tool_calls]
    return written


def _call(call: ToolCall, shape: Shape, mark: Mark) -> dict[str, Any]:
    arguments: Any = call.arguments if call.arguments.strip() else "{}"
    # What a model wrote is not always JSON, and is then shown to it as it was.
    with suppress(ValueError, RecursionError):
        arguments = json.loads(arguments)
        if shape.arguments == "string":  # written anew: no text in it is spelled in other letters then
            arguments = json.dumps(arguments, ensure_ascii=False)
    function = {"name": mark(call.name), "arguments": marked(arguments, mark)}
    return {"id": mark(call.id), "type": "function", "function": function}


def _tool(tool: Tool, mark: Mark) -> dict[str, Any]:
    function = {
        "name": mark(tool.name),
        "description": mark(tool.description),
        "parameters": marked(_parsed(bytes(tool.parameters), "tools"), mark),
    }
    return {"type": "function", "function": function}


def _kwargs(request: GenerationRequest, mark: Mark) -> dict[str, Any]:
    thinking = request.thinking
    kwargs: dict[str, Any] = {}
    if thinking.is_on is not None:
        kwargs = {"enable_thinking": thinking.is_on, "thinking": thinking.is_on}
    if thinking.effort is not None:
        kwargs["reasoning_effort"] = mark(thinking.effort)
    if request.template_kwargs is not None:
        own = _parsed(bytes(request.template_kwargs), "chat_template_kwargs")
        if not isinstance(own, dict):
            raise InvalidRequest("'chat_template_kwargs' must be an object.", param="chat_template_kwargs")
        for name in own:
            if name in _RESERVED:
                raise InvalidRequest(
                    f"'chat_template_kwargs' cannot set '{name}'.", param="chat_template_kwargs"
                )
        kwargs |= {name: marked(value, mark) for name, value in own.items()}
    return kwargs


def marked(value: Any, mark: Mark) -> Any:
    """What JSON is made of, with all strings in it marked, keys too."""
    if isinstance(value, str):
        return mark(value)
    if isinstance(value, dict):
        return {mark(key): marked(each, mark) for key, each in value.items()}
    if isinstance(value, list):
        return [marked(each, mark) for each in value]
    return value


def _parsed(raw: bytes, param: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else "not JSON"
        raise InvalidRequest(f"what is in '{param}' is {reason}", param=param) from None
