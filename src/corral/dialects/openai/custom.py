"""Tools whose input is free text: to a model that calls with JSON they are functions of one text.

Source: OpenAI's guide, https://platform.openai.com/docs/guides/function-calling#context-free-grammars
"""

from typing import Any, Final

import msgspec

from corral.dialects.wire import present, value_of
from corral.errors import InvalidRequest
from corral.request import Grammar, Tool

NO_PARAMETERS: Final = msgspec.Raw(b'{"type":"object","properties":{}}')
CUSTOM_PARAMETERS: Final = msgspec.Raw(
    b'{"type":"object","properties":{"input":{"type":"string"}},"required":["input"],"additionalProperties":false}'
)


def custom_tool(name: str, description: str | None, given: msgspec.Raw, param: str) -> Tool:
    """A custom tool as a function. Its `given` format is the field `param`, and told to the model.

    Raises InvalidRequest for a format that is none of OpenAI's.
    """
    told = description or ""
    grammar = _grammar(given, param)
    if grammar is not None:
        told += f"\n\nThe input follows this {grammar.kind} grammar:\n{grammar.source}"
    return Tool(name, told.strip(), CUSTOM_PARAMETERS, input=grammar)


def _grammar(given: msgspec.Raw, param: str) -> Grammar | None:
    raw = present(given)
    form: Any = value_of(raw, param) if raw is not None else None
    if not isinstance(form, dict) or form.get("type") != "grammar":
        return None
    own = form.get("grammar")
    form = own if isinstance(own, dict) else form
    syntax, definition = form.get("syntax"), form.get("definition")
    if syntax not in ("lark", "regex") or not isinstance(definition, str) or not definition:
        raise InvalidRequest(f"'{param}' must have a definition, in the syntax lark or regex.", param=param)
    return Grammar(syntax, definition, param)
