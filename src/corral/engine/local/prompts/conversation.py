"""A request in the shape that chat templates expect: messages and tools as plain dictionaries."""

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from corral.errors import InvalidRequest
from corral.request import GenerationRequest, Message, Tool, ToolCall

_RESERVED = frozenset(("messages", "tools", "add_generation_prompt", "bos_token", "eos_token"))


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


def shaped(request: GenerationRequest, shape: Shape) -> Conversation:
    """The conversation of a request. A last message of the assistant is left open, to be continued.

    Raises InvalidRequest for what is no JSON, or no JSON object, where there has to be one.
    """
    messages = request.messages
    last = messages[-1] if messages else None
    continued = last if last is not None and last.role == "assistant" and not last.tool_calls else None
    return Conversation(
        messages=[_message(message, shape) for message in (messages[:-1] if continued else messages)],
        tools=[_tool(tool) for tool in request.tools],
        kwargs=_kwargs(request),
        continued=continued.content if continued else "",
    )


def _message(message: Message, shape: Shape) -> dict[str, Any]:
    is_renamed = message.role == "developer" and not shape.knows_developer
    written: dict[str, Any] = {
        "role": "system" if is_renamed else message.role,
        "content": message.content,
    }
    if message.name is not None:
        written["name"] = message.name
    if message.tool_call_id is not None:
        written["tool_call_id"] = message.tool_call_id
    if message.reasoning and shape.reasoning_field:
        written[shape.reasoning_field] = message.reasoning
    if message.tool_calls:
        written["tool_calls"] = [_call(call, shape) for call in message.tool_calls]
    return written


def _call(call: ToolCall, shape: Shape) -> dict[str, Any]:
    arguments: Any = call.arguments if call.arguments.strip() else "{}"
    if shape.arguments == "object":
        # What a model wrote is not always JSON, and is then shown to it as it was.
        with suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _tool(tool: Tool) -> dict[str, Any]:
    parameters = _parsed(bytes(tool.parameters), "tools")
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _kwargs(request: GenerationRequest) -> dict[str, Any]:
    thinking = request.thinking
    kwargs: dict[str, Any] = {}
    if thinking.is_on is not None:
        kwargs = {"enable_thinking": thinking.is_on, "thinking": thinking.is_on}
    if thinking.effort is not None:
        kwargs["reasoning_effort"] = thinking.effort
    if request.template_kwargs is not None:
        own = _parsed(bytes(request.template_kwargs), "chat_template_kwargs")
        if not isinstance(own, dict):
            raise InvalidRequest("'chat_template_kwargs' must be an object.", param="chat_template_kwargs")
        for name in own:
            if name in _RESERVED:
                raise InvalidRequest(
                    f"'chat_template_kwargs' cannot set '{name}'.", param="chat_template_kwargs"
                )
        kwargs |= own
    return kwargs


def _parsed(raw: bytes, param: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else "not JSON"
        raise InvalidRequest(f"what is in '{param}' is {reason}", param=param) from None
