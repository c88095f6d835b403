"""A request as its model's chat template takes it: messages, tools, and further variables.

Every text of the client's goes through a `mark`, and nothing else does: names of fields, roles and types are
not the client's. What is JSON is parsed first, since in JSON any text can be spelled in other letters.
"""

import json
from dataclasses import dataclass
from typing import Any

from corral.decoding.formats.history import Mark, conversation, marked
from corral.decoding.formats.learn import Learned
from corral.decoding.formats.learn_thoughts import Switch
from corral.errors import InvalidRequest
from corral.request import GenerationRequest, Message

_RESERVED = frozenset(("messages", "tools", "add_generation_prompt", "bos_token", "eos_token"))

SURROGATE = "the conversation holds half of a surrogate pair, which is no character"


@dataclass(frozen=True, slots=True)
class Shaped:
    """What a template is given, and the text put behind it: the start of an answer to be continued."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    kwargs: dict[str, Any]
    continued: str | None = None


def shaped(request: GenerationRequest, learned: Learned, mark: Mark = str) -> Shaped:
    """The conversation of a request. A last message of the assistant is left open, to be continued.

    Raises InvalidRequest for what is no JSON, or no JSON object, where there has to be one.
    """
    messages = request.messages
    last = messages[-1] if messages else None
    continued = last if last is not None and last.role == "assistant" and not last.tool_calls else None
    if continued is not None:
        messages = messages[:-1]
    switch = _switch(request, learned)
    if switch is not None and switch.system_text:
        messages = (Message("system", switch.system_text), *messages)
    written = conversation(learned, messages, offered(request), mark=mark)
    return Shaped(
        written.messages,
        written.tools,
        _kwargs(request, switch, mark),
        mark(continued.content) if continued is not None else None,
    )


def offered(request: GenerationRequest) -> tuple[Any, ...]:
    """The tools that the model is told of: none where it may call none."""
    return () if request.tool_choice.mode == "none" else request.tools


def _switch(request: GenerationRequest, learned: Learned) -> Switch | None:
    match request.thinking.is_on:
        case True:
            return learned.prompts.switch_on
        case False:
            return learned.prompts.switch_off
        case None:
            return None


def _kwargs(request: GenerationRequest, switch: Switch | None, mark: Mark) -> dict[str, Any]:
    thinking = request.thinking
    kwargs: dict[str, Any] = {}
    if thinking.is_on is not None:
        kwargs = {"enable_thinking": thinking.is_on, "thinking": thinking.is_on}
    if thinking.effort is not None:
        kwargs["reasoning_effort"] = mark(thinking.effort)
    if switch is not None:
        kwargs |= switch.kwargs
    if request.template_kwargs is not None:
        kwargs |= {name: marked(value, mark) for name, value in _own_kwargs(request).items()}
    return kwargs


def _own_kwargs(request: GenerationRequest) -> dict[str, Any]:
    """The client's own variables. Raises InvalidRequest."""
    param = "chat_template_kwargs"
    try:
        own = json.loads(request.template_kwargs or "{}")
    except (ValueError, RecursionError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else "not JSON"
        raise InvalidRequest(f"what is in '{param}' is {reason}", param=param) from None
    if not isinstance(own, dict):
        raise InvalidRequest(f"'{param}' must be an object.", param=param)
    for name in own:
        if name in _RESERVED:
            raise InvalidRequest(f"'{param}' cannot set '{name}'.", param=param)
    return own
