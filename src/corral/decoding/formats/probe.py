"""Conversations whose every part is a unique word, rendered to see where the words land.

A template may refuse a shape (arguments as a string, null content, two calls, a role) or leave parts of it
out. `Prober` finds the shapes it takes, which are its capabilities, and gives what it writes for one turn of
the assistant: the text behind the user's word.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

USER = "Quellimar"
CONTENT = "Fendibrax"
THOUGHT = "Jarvonthe"
RESULT = "Wexpoly"
NAMES = ("vorlumen", "kestrada")
KEYS = ("brengal", "pilkton")  # in the order of the alphabet, which some templates sort by
VALUES = (("Tharnwick", "Ozmerund"), ("Yssolder", "Dunkravel"))
IDS = ("a1B2c3D4e", "f5G6h7J8k")
OTHER_IDS = ("m2N3p4Q5r", "s6T7u8V9w")

_TYPED_KEYS = {
    "murdoc": "integer",
    "nebrik": "number",
    "selvin": "boolean",
    "hartig": "object",
    "wolmet": "array",
}

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts")
_SWITCHES: tuple[dict[str, Any], ...] = (
    {},
    {"enable_thinking": True},
    {"thinking": True},
    {"reasoning_effort": "high"},
    {"preserve_thinking": True},
    {"keep_past_thinking": True},
    {"think_render_option": "all"},
)

Messages = list[dict[str, Any]]
ContentBesideCalls = Literal["empty", "null", "absent"]


class Render(Protocol):
    """A chat template: may raise anything, and blocks for as long as it takes."""

    def __call__(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        *,
        add_generation_prompt: bool,
        **kwargs: Any,
    ) -> str: ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The shapes of a conversation that a template takes, and what it shows of them."""

    tools: bool = False
    """Tools given to it change what it renders."""
    calls: bool = False
    """Calls in earlier turns are rendered."""
    parallel_calls: bool = False
    results: bool = False
    """Messages of the role tool are rendered."""
    system: bool = False
    late_system: bool = False
    """Behind the first turn, too: many refuse a system message there, or leave it out."""
    developer: bool = False
    arguments: Literal["object", "string"] = "object"
    content_beside_calls: ContentBesideCalls = "empty"
    text_beside_calls: bool = False
    text_hides_calls: bool = False
    """Where a turn has text, its calls are left out."""
    reasoning_field: str | None = None
    """Where a thought goes; `blocks` for a content block of type thinking; None where it is not rendered."""
    reasoning_kwargs: dict[str, Any] = field(default_factory=dict)
    thought_beside_text_and_calls: bool = True
    """A turn may have all three; otherwise the thought goes, where there is text beside calls."""
    short_ids: bool = False
    """Call ids must be nine letters and digits."""
    ids: bool = False
    """Ids of calls are rendered."""


def call(index: int, arguments: Any, name: str = "", call_id: str = "") -> dict[str, Any]:
    function = {"name": name or NAMES[index], "arguments": arguments}
    return {"id": call_id or IDS[index], "type": "function", "function": function}


def first_arguments(index: int) -> dict[str, Any]:
    return dict(zip(KEYS, VALUES[index], strict=True))


def tool(name: str, *, is_typed: bool = False) -> dict[str, Any]:
    properties: dict[str, Any] = {key: {"type": "string", "description": "some text"} for key in KEYS}
    if is_typed:
        for key, kind in _TYPED_KEYS.items():
            properties[key] = {"type": kind, "description": f"some {kind}"}
        properties["wolmet"]["items"] = {"type": "string", "description": "some text"}
        properties["hartig"]["properties"] = {}
    parameters = {"type": "object", "properties": properties, "required": [KEYS[0]]}
    function = {"name": name, "description": f"does {name}", "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS = [tool(name) for name in NAMES]
TYPED_TOOLS = [tool(name, is_typed=True) for name in NAMES]


class Prober:
    """Renders turns for one template, and remembers which shapes it took. Pure, given a pure `render`."""

    def __init__(self, render: Render, kwargs: Mapping[str, Any] | None = None) -> None:
        self._render = render
        self._kwargs = dict(kwargs or {})
        self.capabilities = Capabilities()
        self.renders = 0

    def render(
        self,
        messages: Messages,
        *,
        tools: list[dict[str, Any]] | None = None,
        generation: bool = False,
        **kwargs: Any,
    ) -> str | None:
        """The text, or None where the template refuses the conversation."""
        self.renders += 1
        try:
            return self._render(
                messages, tools, add_generation_prompt=generation, **{**self._kwargs, **kwargs}
            )
        except Exception:  # not our code: it may raise anything
            return None

    def answer(
        self,
        assistant: dict[str, Any],
        *,
        results: int = 0,
        tools: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> str | None:
        """What follows the user's word where this message answers; without the last turn, if refused."""
        messages: Messages = [{"role": "user", "content": USER}, {"role": "assistant", **assistant}]
        for index in range(results):
            messages.append(result(assistant["tool_calls"][index]))
        return behind_user(self.render(messages, tools=tools, **kwargs))

    def prompt(self, **kwargs: Any) -> str | None:
        """What follows the user's word in a prompt for the next answer."""
        return behind_user(self.render([{"role": "user", "content": USER}], generation=True, **kwargs))

    def calls(
        self,
        calls: Sequence[dict[str, Any]],
        *,
        content: str = "",
        thought: str = "",
        results: bool = False,
        tools: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> str | None:
        """The turn of these calls, in the shapes that the template takes."""
        can = self.capabilities
        message: dict[str, Any] = {}
        if content or can.content_beside_calls == "empty":
            message["content"] = content
        elif can.content_beside_calls == "null":
            message["content"] = None
        if thought and can.reasoning_field:
            message.update(thought_of(can.reasoning_field, thought, content))
            kwargs = {**can.reasoning_kwargs, **kwargs}
        message["tool_calls"] = [self._shaped(one) for one in calls]
        return self.answer(
            message, results=len(calls) if results else 0, tools=TOOLS if tools is None else tools, **kwargs
        )

    def _shaped(self, one: dict[str, Any]) -> dict[str, Any]:
        function = dict(one["function"])
        if self.capabilities.arguments == "string":
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
        return {**one, "function": function}


def result(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "role": "tool",
        "tool_call_id": one["id"],
        "name": one["function"]["name"],
        "content": RESULT,
    }


def thought_of(where: str, thought: str, content: str) -> dict[str, Any]:
    """The part of an assistant's message that carries a thought."""
    if where != "blocks":
        return {where: thought}
    blocks = [{"type": "thinking", "thinking": thought}]
    if content:
        blocks.append({"type": "text", "text": content})
    return {"content": blocks}


def behind_user(text: str | None) -> str | None:
    if text is None or USER not in text:
        return None
    return text[text.rindex(USER) + len(USER) :]


def probe(prober: Prober) -> Capabilities:
    """Find what the template takes; `prober` renders accordingly from then on."""
    user = {"role": "user", "content": USER}
    plain = prober.render([user])
    with_tools = prober.render([user], tools=TOOLS)
    shapes = _call_shapes(prober)
    prober.capabilities = Capabilities(
        tools=with_tools is not None and with_tools != plain and NAMES[0] in with_tools,
        system=_shows(prober, "system"),
        late_system=_shows_late_system(prober),
        developer=_shows(prober, "developer"),
        **shapes,
    )
    field_name, kwargs = _reasoning_shape(prober)
    prober.capabilities = _replace(prober.capabilities, reasoning_field=field_name, reasoning_kwargs=kwargs)
    if field_name is not None and prober.capabilities.text_beside_calls:
        calls = [call(0, first_arguments(0))]
        all_three = prober.calls(calls, content=CONTENT, thought=THOUGHT)
        prober.capabilities = _replace(
            prober.capabilities, thought_beside_text_and_calls=all_three is not None
        )
    return prober.capabilities


def _replace(capabilities: Capabilities, **changes: Any) -> Capabilities:
    values = {name: getattr(capabilities, name) for name in Capabilities.__slots__}
    return Capabilities(**{**values, **changes})


def _shows(prober: Prober, role: str) -> bool:
    messages: Messages = [{"role": role, "content": CONTENT}, {"role": "user", "content": USER}]
    text = prober.render(messages, generation=True)
    return text is not None and CONTENT in text


def _shows_late_system(prober: Prober) -> bool:
    """Between an answer and the user, and last of all: coding agents send both. Some templates write the last
    system message in the place of the first."""
    turn: Messages = [
        {"role": "system", "content": NAMES[0]},
        {"role": "user", "content": USER},
        {"role": "assistant", "content": THOUGHT},
    ]
    late: Messages = [{"role": "system", "content": CONTENT}]
    ask: Messages = [{"role": "user", "content": RESULT}]
    texts = (
        prober.render([*turn, *late, *ask], generation=True),
        prober.render([*turn, *ask, *late], generation=True),
    )
    return all(
        text is not None and all(word in text for word in (NAMES[0], CONTENT, RESULT)) for text in texts
    )


def _call_shapes(prober: Prober) -> dict[str, Any]:
    """How calls have to be given to be rendered; empty where they are not."""
    contents: tuple[tuple[ContentBesideCalls, dict[str, Any]], ...] = (
        ("empty", {"content": ""}),
        ("null", {"content": None}),
        ("absent", {}),
    )
    for content_name, content in contents:
        for as_string in (False, True):
            arguments: Any = first_arguments(0)
            message = {**content, "tool_calls": [call(0, json.dumps(arguments) if as_string else arguments)]}
            text = prober.answer(message, tools=TOOLS)
            if text is None or VALUES[0][0] not in text:
                text = prober.answer(message, tools=TOOLS, results=1)
            if text is None or VALUES[0][0] not in text or NAMES[0] not in text:
                continue
            if not as_string and f"{{'{KEYS[0]}': '" in text:
                # Python's way to print an object: the template meant to be given text.
                as_text = {**content, "tool_calls": [call(0, json.dumps(arguments))]}
                written = prober.answer(as_text, tools=TOOLS)
                if written is not None and json.dumps(arguments) in written:
                    continue
            prober.capabilities = Capabilities(
                calls=True,
                arguments="string" if as_string else "object",
                content_beside_calls=content_name,
            )
            return _more_shapes(prober)
    return {}


def _more_shapes(prober: Prober) -> dict[str, Any]:
    can = prober.capabilities
    both = [call(index, first_arguments(index)) for index in (0, 1)]
    two = prober.calls(both) or prober.calls(both, results=True)
    beside = prober.calls(both[:1], content=CONTENT)
    result_text = prober.calls(both[:1], results=True)
    long_id = prober.calls([call(0, first_arguments(0), call_id="call_0123456789abcdef")], results=True)
    one = prober.calls(both[:1])
    other = prober.calls([call(0, first_arguments(0), call_id=OTHER_IDS[0])])
    return {
        "calls": True,
        "arguments": can.arguments,
        "content_beside_calls": can.content_beside_calls,
        "parallel_calls": two is not None and VALUES[0][0] in two and VALUES[1][0] in two,
        "text_beside_calls": beside is not None and CONTENT in beside and VALUES[0][0] in beside,
        "text_hides_calls": beside is not None and CONTENT in beside and VALUES[0][0] not in beside,
        "results": result_text is not None and RESULT in result_text,
        "short_ids": result_text is not None and long_id is None,
        "ids": one != other,
    }


def _reasoning_shape(prober: Prober) -> tuple[str | None, dict[str, Any]]:
    """Which field of an assistant's message is rendered as its thought, and with which switches."""
    everything = {name: f"{THOUGHT}{index}" for index, name in enumerate(REASONING_FIELDS)}
    for kwargs in _SWITCHES:
        for calls in ([], [call(0, first_arguments(0))]):
            if calls and not prober.capabilities.calls:
                continue
            text = _thought_turn(prober, everything, calls, kwargs)
            if text is None:
                # Some refuse one of the fields beside another.
                for name in REASONING_FIELDS:
                    text = _thought_turn(prober, {name: THOUGHT}, calls, kwargs)
                    if text is not None and THOUGHT in text:
                        return name, kwargs
                continue
            for index, name in enumerate(REASONING_FIELDS):
                if f"{THOUGHT}{index}" in text:
                    return name, kwargs
    blocks = thought_of("blocks", THOUGHT, CONTENT)
    text = prober.answer(blocks)
    if text is not None and THOUGHT in text and "thinking'" not in text and '"thinking"' not in text:
        return "blocks", {}
    return None, {}


def _thought_turn(
    prober: Prober, fields: Mapping[str, Any], calls: list[dict[str, Any]], kwargs: Mapping[str, Any]
) -> str | None:
    if not calls:
        return prober.answer({"content": CONTENT, **fields}, **kwargs)
    shaped = prober.capabilities
    prober_calls = [prober._shaped(one) for one in calls]
    content: dict[str, Any] = {"content": None if shaped.content_beside_calls == "null" else ""}
    if shaped.content_beside_calls == "absent":
        content = {}
    return prober.answer({**content, **fields, "tool_calls": prober_calls}, tools=TOOLS, **kwargs)
