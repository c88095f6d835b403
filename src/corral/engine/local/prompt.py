"""From a conversation to the tokens the model sees.

The model's own Jinja template writes the conversation. A GGUF file is not trusted, so the template runs
in Jinja's immutable sandbox. Neither is a message: its text must never become a control token such as
`<|im_end|>`, or it could end its own turn and speak as somebody else. llama.cpp cannot tell the
template's `<|im_end|>` from a user's in the rendered text, so we make them differ:

    1. In every string of the request, the text of a control token gets a mark after its first character,
       a Unicode noncharacter that the request does not otherwise contain.
    2. The template renders. Whatever matches a control token now was written by the template.
    3. The text is split there, the marks are taken out again, and the pieces are tokenized as plain text.

Nearly no message contains such a text; then the rendered text is tokenized in one go, as llama.cpp does.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from corral.engine.local.backend import ChatFormat, Vocabulary
from corral.errors import InvalidRequest
from corral.request import Message, Tool

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""What a model without a template gets, as in llama.cpp."""

NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]

Mark = Callable[[str], str]


class Prompter:
    """Writes and tokenizes conversations for one model. Thread-safe; pure but for the date."""

    def __init__(self, chat_format: ChatFormat, vocabulary: Vocabulary) -> None:
        source = chat_format.template or CHATML
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._template = environment.from_string(source)
        self._knows_developer = "developer" in source
        self._texts = {"bos_token": chat_format.bos_text, "eos_token": chat_format.eos_text}
        self._vocabulary = vocabulary
        texts = sorted((text for text in vocabulary.control_texts if text), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, texts)) if texts else r"(?!)")

    def tokens(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """The prompt's tokens, at least one; blocking, about 0.1 ms per 1,000 characters.

        A last message of the assistant is left open, to be continued. Raises InvalidRequest if the
        template refuses the conversation.
        """
        strings = list(_strings(messages, tools))
        if any(map(self._control.search, strings)):
            noncharacter = _unused_noncharacter(strings)
            mark = partial(self._control.sub, lambda match: match[0][0] + noncharacter + match[0][1:])
            tokens = self._tokenize_marked(self._render(messages, tools, mark), noncharacter)
        else:
            tokens = self._vocabulary.tokenize(self._render(messages, tools, str), parse_control=True)
        bos = self._vocabulary.bos
        if bos is not None and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        if not tokens:
            raise InvalidRequest("the conversation renders to an empty prompt", param="messages")
        return tokens

    def _render(self, messages: Sequence[Message], tools: Sequence[Tool], mark: Mark) -> str:
        continued = messages[-1] if messages and messages[-1].role == "assistant" else None
        if continued is not None and continued.tool_calls:
            continued = None
        written = messages[:-1] if continued else messages
        try:
            text = self._template.render(
                messages=[self._message(message, mark) for message in written],
                tools=[_tool(tool, mark) for tool in tools] or None,
                add_generation_prompt=True,
                **self._texts,
            )
        except Exception as error:  # the template is not ours: it may raise anything
            raise InvalidRequest(
                f"the model's chat template refuses this conversation: {error}", param="messages"
            ) from error
        return text + mark(continued.content) if continued else text

    def _message(self, message: Message, mark: Mark) -> dict[str, Any]:
        role = "system" if message.role == "developer" and not self._knows_developer else message.role
        rendered: dict[str, Any] = {"role": role, "content": mark(message.content)}
        if message.name is not None:
            rendered["name"] = mark(message.name)
        if message.tool_call_id is not None:
            rendered["tool_call_id"] = mark(message.tool_call_id)
        if message.tool_calls:
            rendered["tool_calls"] = [
                {
                    "id": mark(call.id),
                    "type": "function",
                    "function": {"name": mark(call.name), "arguments": _arguments(mark(call.arguments))},
                }
                for call in message.tool_calls
            ]
        return rendered

    def _tokenize_marked(self, text: str, noncharacter: str) -> list[int]:
        tokens: list[int] = []
        end = 0
        for match in self._control.finditer(text):
            tokens += self._plain(text[end : match.start()], noncharacter)
            tokens.append(self._vocabulary.control_texts[match[0]])
            end = match.end()
        return tokens + self._plain(text[end:], noncharacter)

    def _plain(self, text: str, noncharacter: str) -> list[int]:
        text = text.replace(noncharacter, "")
        return self._vocabulary.tokenize(text, parse_control=False) if text else []


def _strings(messages: Sequence[Message], tools: Sequence[Tool]) -> Iterator[str]:
    for message in messages:
        yield message.content
        yield message.name or ""
        yield message.tool_call_id or ""
        for call in message.tool_calls:
            yield from (call.id, call.name, call.arguments)
    for tool in tools:
        yield from (tool.name, tool.description, bytes(tool.parameters).decode())


def _unused_noncharacter(strings: Sequence[str]) -> str:
    for character in NONCHARACTERS:
        if not any(character in string for string in strings):
            return character
    raise InvalidRequest(
        "the messages use every Unicode noncharacter from U+FDD0 to U+FDEF", param="messages"
    )


def _tool(tool: Tool, mark: Mark) -> dict[str, Any]:
    parameters = json.loads(mark(bytes(tool.parameters).decode()))
    function = {"name": mark(tool.name), "description": mark(tool.description), "parameters": parameters}
    return {"type": "function", "function": function}


def _arguments(text: str) -> Any:
    """Templates expect an object; what is not JSON is shown to the model as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _to_json(value: Any, indent: int | None = None) -> str:
    # Jinja's own tojson escapes for HTML, which a model has never seen.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now(UTC).strftime(form)
