"""A conversation in the shapes that a template takes, by what was learned of it.

What the template renders itself is given to it as it wants it: arguments as an object or a text, content
beside calls empty, null or absent, ids of nine characters, one call a turn, no system message but the first.
What it does not render is written as text: calls in the format that the model is read by, results in tags,
tools in the system message with our own instruction.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from corral.decoding.formats.encode import WrittenCall, encode_calls
from corral.decoding.formats.form import CallForm
from corral.decoding.formats.learn import Learned
from corral.decoding.formats.probe import thought_of
from corral.request import Message, Tool, ToolCall

Mark = Callable[[str], str]
"""Applied to every text of the request, and to nothing that we write; see `engine.local.prompts`."""

_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_EXAMPLE = WrittenCall("example_tool", {"some_argument": "its value"}, "call00001")


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a template is rendered with. `tools` None: there are none, or the template is not told."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None


def conversation(
    learned: Learned, messages: Sequence[Message], tools: Sequence[Tool] = (), *, mark: Mark = str
) -> Conversation:
    """The messages and tools as this template takes them. Pure; raises nothing."""
    return _Writer(learned, mark).write(messages, tools)


def tool_dict(tool: Tool, mark: Mark = str) -> dict[str, Any]:
    """A tool as every template is given it."""
    function = {
        "name": mark(tool.name),
        "description": mark(tool.description),
        "parameters": marked(json.loads(bytes(tool.parameters) or b"{}"), mark),
    }
    return {"type": "function", "function": function}


def marked(value: Any, mark: Mark) -> Any:
    """What JSON is made of, with all strings in it marked, keys too."""
    if isinstance(value, str):
        return mark(value)
    if isinstance(value, dict):
        return {mark(key): marked(each, mark) for key, each in value.items()}
    if isinstance(value, list):
        return [marked(each, mark) for each in value]
    return value


def instruction(form: CallForm, tools: Sequence[Tool], mark: Mark = str) -> str:
    """What we tell a model whose template says nothing of tools: which there are, and how to call them."""
    lines = "\n".join(json.dumps(tool_dict(tool, mark)["function"], ensure_ascii=False) for tool in tools)
    example = encode_calls(form, [_EXAMPLE]).strip()
    return (
        "You can call tools. These are the tools there are, one a line, each with the JSON Schema of its "
        f"arguments:\n<tools>\n{lines}\n</tools>\n\n"
        "To call a tool, write its name and its arguments exactly in this way, and end your turn after the "
        f"last call:\n{example}\n\n"
        "You are then told the results. Call a tool only where you need it; otherwise just answer."
    )


class _Writer:
    def __init__(self, learned: Learned, mark: Mark) -> None:
        self._can = learned.capabilities
        self._mark = mark
        self._form = learned.format.calls[0] if learned.format.calls else None
        # A form that is not the template's own is written by us, whatever the template would do.
        self._renders_calls = self._can.calls and learned.format.source == "learned"
        self._names: dict[str, str] = {}

    def write(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Conversation:
        if self._renders_calls and not self._can.parallel_calls:
            messages = _one_call_a_turn(messages)
        written = [self._message(message) for message in self._prepared(messages, tools)]
        given = [tool_dict(tool, self._mark) for tool in tools] if tools and self._can.tools else None
        return Conversation(_merged(written), given)

    def _prepared(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Iterable[Message]:
        """The messages with one system message in front, where the template has a place for it."""
        system: list[str] = []
        rest = list(messages)
        role = "system"
        while rest and rest[0].role in ("system", "developer"):
            first = rest.pop(0)
            role = first.role if not system else role
            system.append(self._mark(first.content))
        if tools and not self._can.tools and self._form is not None:
            system.append(instruction(self._form, tools, self._mark))
        marked = [_marked(message, self._mark) for message in rest]
        if not self._can.late_system:
            marked = _without_late_system(marked)
        if not system:
            return marked
        text = "\n\n".join(filter(None, system))
        if self._can.system or (role == "developer" and self._can.developer):
            role = role if role == "system" or self._can.developer else "system"
            return [Message(role="developer" if role == "developer" else "system", content=text), *marked]
        # No system message in this template: the first thing the user says begins with it.
        for index, message in enumerate(marked):
            if message.role == "user":
                marked[index] = replace(message, content=f"{text}\n\n{message.content}")
                return marked
        return [Message(role="user", content=text), *marked]

    def _message(self, message: Message) -> dict[str, Any]:
        if message.role == "assistant":
            return self._assistant(message)
        if message.role == "tool":
            return self._result(message)
        role = message.role
        if role == "developer" and not self._can.developer:
            role = "system"
        if role == "system" and not self._can.system:
            role = "user"
        written: dict[str, Any] = {"role": role, "content": message.content}
        if message.name is not None:
            written["name"] = message.name
        return written

    def _assistant(self, message: Message) -> dict[str, Any]:
        for call in message.tool_calls:
            self._names[call.id] = call.name
        if message.verbatim:
            return {"role": "assistant", "content": "".join(message.verbatim)}
        if not message.tool_calls:
            return self._plain(message, message.content)
        if not self._renders_calls and self._form is not None:
            calls = [self._written(call) for call in message.tool_calls]
            section = encode_calls(self._form, calls)
            text = message.content
            return self._plain(message, text + "\n" + section.lstrip() if text else section)
        return self._with_calls(message)

    def _plain(self, message: Message, content: str) -> dict[str, Any]:
        written: dict[str, Any] = {"role": "assistant", "content": content}
        if message.name is not None:
            written["name"] = message.name
        if message.reasoning and self._can.reasoning_field is not None:
            written.update(thought_of(self._can.reasoning_field, message.reasoning, content))
        return written

    def _with_calls(self, message: Message) -> dict[str, Any]:
        content = "" if self._can.text_hides_calls else message.content
        reasoning = message.reasoning
        if content and reasoning and not self._can.thought_beside_text_and_calls:
            reasoning = ""
        written = self._plain(replace(message, reasoning=reasoning), content)
        if not content and self._can.reasoning_field != "blocks":
            if self._can.content_beside_calls == "absent":
                del written["content"]
            elif self._can.content_beside_calls == "null":
                written["content"] = None
        written["tool_calls"] = [
            {
                "id": self._id(call.id),
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": self._arguments(call, is_text=self._can.arguments == "string"),
                },
            }
            for call in message.tool_calls
        ]
        return written

    def _result(self, message: Message) -> dict[str, Any]:
        content = message.content
        name = message.name or self._names.get(message.tool_call_id or "", "")
        if not self._renders_calls or not self._can.results:
            opening = '<tool_response error="true">' if message.is_error else "<tool_response>"
            return {"role": "user", "content": f"{opening}\n{content}\n</tool_response>"}
        if message.is_error and not content.lower().startswith("error"):
            content = f"Error: {content}"
        written = {"role": "tool", "content": content}
        if message.tool_call_id is not None:
            written["tool_call_id"] = self._id(message.tool_call_id)
        if name:
            written["name"] = name
        return written

    def _written(self, call: ToolCall) -> WrittenCall:
        arguments = self._arguments(call, is_text=False)
        return WrittenCall(
            call.name, arguments if isinstance(arguments, dict) else {"arguments": arguments}, call.id
        )

    def _arguments(self, call: ToolCall, *, is_text: bool) -> Any:
        """As an object or as a text; what is not JSON is shown to the model as it is.

        It is parsed before it is marked: in JSON any text can be spelled in other letters.
        """
        try:
            arguments = json.loads(call.arguments if call.arguments.strip() else "{}")
        except (ValueError, RecursionError):
            return self._mark(call.arguments)
        written = marked(arguments, self._mark)
        if not is_text:
            return written
        is_compact = call.arguments == json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
        return json.dumps(written, ensure_ascii=False, separators=(",", ":") if is_compact else None)

    def _id(self, call_id: str) -> str:
        """The id as the template takes it: the same one always becomes the same nine characters."""
        if not self._can.short_ids or _SHORT_ID.fullmatch(call_id):
            return call_id
        return hashlib.blake2b(call_id.encode(), digest_size=8).hexdigest()[:9]


def _without_late_system(messages: Sequence[Message]) -> list[Message]:
    """What is said by the system in mid-conversation, in the turn that it is next to.

    The user's next, if that is the next message; else the user's or the tool's before it. So it stays where
    it is when the conversation goes on, and what was computed of it is of use again.
    """
    folded: list[Message] = []
    held: list[str] = []

    def put_behind() -> None:
        last = folded[-1] if folded else None
        text = "\n\n".join(held)
        held.clear()
        if last is not None and last.role in ("user", "tool"):
            folded[-1] = replace(last, content=f"{last.content}\n\n{text}")
        elif text:
            folded.append(Message(role="user", content=text))

    for message in messages:
        if message.role in ("system", "developer"):
            held.append(message.content)
        elif held and message.role == "user":
            folded.append(replace(message, content="\n\n".join([*held, message.content])))
            held.clear()
        else:
            if held:
                put_behind()
            folded.append(message)
    if held:
        put_behind()
    return folded


def _one_call_a_turn(messages: Sequence[Message]) -> list[Message]:
    """Each call in a turn of its own, its result behind it."""
    single: list[Message] = []
    rest = list(messages)
    while rest:
        message = rest.pop(0)
        if len(message.tool_calls) < 2 or message.verbatim:
            single.append(message)
            continue
        for index, call in enumerate(message.tool_calls):
            turn = message if not index else replace(message, content="", reasoning="")
            single.append(replace(turn, tool_calls=(call,)))
            end = next((at for at, one in enumerate(rest) if one.role != "tool"), len(rest))
            found = next((at for at in range(end) if rest[at].tool_call_id == call.id), None)
            if found is not None:
                single.append(rest.pop(found))
    return single


def _marked(message: Message, mark: Mark) -> Message:
    calls = tuple(ToolCall(mark(call.id), mark(call.name), call.arguments) for call in message.tool_calls)
    return replace(
        message,
        content=mark(message.content),
        name=mark(message.name) if message.name is not None else None,
        tool_call_id=mark(message.tool_call_id) if message.tool_call_id is not None else None,
        reasoning=mark(message.reasoning),
        tool_calls=calls,
        # Between the texts there are control tokens, which the model had sampled.
        verbatim=tuple(part if index % 2 else mark(part) for index, part in enumerate(message.verbatim)),
    )


def _merged(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Several results, written as text, in one turn of the user: templates want the roles to alternate."""
    merged: list[dict[str, Any]] = []
    for message in messages:
        last = merged[-1] if merged else None
        if (
            last is not None
            and last["role"] == message["role"] == "user"
            and str(last["content"]).endswith("</tool_response>")
            and "name" not in message
        ):
            merged[-1] = {**last, "content": f"{last['content']}\n{message['content']}"}
        else:
            merged.append(message)
    return merged
