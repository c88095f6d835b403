"""Chat templates in the environment they were written for, and in a sandbox.

A model's template is a Jinja program from whoever made the file. It was tested with the `transformers`
library or with a vendor's own renderer, and expects what these have: `tojson` that writes plain JSON,
`{% generation %}` blocks, `raise_exception`, `strftime_now`, lists that may be appended to. It sees deep
copies of what it is given and no name that begins with an underscore.

What the sandbox does not do is to end a template that never ends, or that asks for all memory there is:
neither can be done inside one interpreter. Whoever renders a template that is not trusted does so in a
process that may be killed (`engine.local.prompts`). Only what makes much out of nothing in a single
operation, such as `10**10**9` or `'x' * 10**9`, is refused here, with an error that says so.
"""

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, time
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import SandboxedEnvironment

from corral.templates.tools import plainer

Tools = Sequence[Mapping[str, Any]]
Clock = Callable[[], datetime]

FAULT_CHARS = 500
"""Longest message of a TemplateFault; what a template raises may have any length."""

_MOST_ITEMS = 10**7  # of a text or list that `*` or `%` makes
_MOST_BITS = 10**5  # of a number that `**` makes


class TemplateFault(Exception):
    """A template does not compile, or refuses what it is given. The message is one line, for people."""

    def __init__(self, reason: str) -> None:
        # Cut first: what was raised may be long, and may hold what cannot be encoded.
        line = " ".join(reason[: 2 * FAULT_CHARS].encode(errors="replace").decode().split())
        super().__init__(line if len(line) <= FAULT_CHARS else line[: FAULT_CHARS - 1] + "…")


class ChatTemplate:
    """A compiled chat template. Rendering is pure but for the date, and leaves nothing behind.

    `syntax` is the source as Jinja reads it.

    Raises TemplateFault if the source does not compile. Compiling takes as long as the source likes, since
    Jinja computes what is constant.
    """

    def __init__(
        self, source: str, *, bos_text: str = "", eos_text: str = "", clock: Clock = datetime.now
    ) -> None:
        self.source = source
        self._texts = {"bos_token": bos_text, "eos_token": eos_text}
        self._clock = clock
        environment = _Environment()
        environment.globals["strftime_now"] = self._strftime_now
        try:
            self.syntax = environment.parse(source)
            self._template = environment.from_string(source)
        except Exception as error:  # the template is not ours: compiling it may raise anything
            raise TemplateFault(_reason(error)) from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Tools | None = None,
        *,
        add_generation_prompt: bool = True,
        **kwargs: Any,
    ) -> str:
        """The conversation as the model wants it written. Blocks for as long as the template takes.

        `tools` None or empty leaves them undefined, which is what templates ask for. Tools that the template
        fails on are given to it once more in a plainer form. Raises TemplateFault.
        """
        variables = {
            **self._texts,
            **self._of_vendors(tools or ()),
            **kwargs,
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            if not tools:
                return self._render(variables)
            try:
                return self._render({**variables, "tools": tools})
            except Exception:
                return self._render({**variables, "tools": plainer(tools)})
        except Exception as error:  # as above
            raise TemplateFault(_reason(error)) from error

    def _render(self, variables: dict[str, Any]) -> str:
        return self._template.render(copy.deepcopy(variables))

    def _of_vendors(self, tools: Tools) -> dict[str, Any]:
        """Variables that a few templates take from their vendor's renderer."""
        functions = [tool.get("function", tool) for tool in tools]
        return {
            "functions": json.dumps(functions, ensure_ascii=False, indent=4),
            "datetime": self._strftime_now("%B %d %Y %H:%M:%S GMT"),
        }

    def _strftime_now(self, form: str) -> str:
        # A prompt that holds the time of day is a new one every second: no prefix of it is found again.
        return datetime.combine(self._clock().date(), time()).strftime(form)


class _Undefined(jinja2.Undefined):
    """A name or field that is missing; nothing, where it is put together with a text."""

    def __add__(self, other: Any) -> Any:
        return other if isinstance(other, str | jinja2.Undefined) else self._fail_with_undefined_error()

    def __radd__(self, other: Any) -> Any:
        return other if isinstance(other, str) else self._fail_with_undefined_error()


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`: marks for training what the assistant wrote. Nothing here."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own way of declaring it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(SandboxedEnvironment):
    # Not folded when compiled, and bounded when run.
    intercepted_binops = frozenset({"**", "*", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=_Undefined,
            extensions=[loopcontrols, _Generation],
        )
        # What makes text of no use to a prompt, or much of it out of nothing.
        for name in ("lipsum", "cycler", "joiner"):
            del self.globals[name]
        self.filters |= {"tojson": _to_json, "from_json": json.loads, "fromjson": json.loads}
        self.globals["raise_exception"] = _raise_exception

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        match operator:
            case "**":
                bits = left.bit_length() if isinstance(left, int) else 64
                is_too_much = isinstance(right, int) and bits * right > _MOST_BITS
            case "*":
                is_too_much = max(_items(left) * _count(right), _count(left) * _items(right)) > _MOST_ITEMS
            case _:
                is_too_much = isinstance(left, str) and _widest(left, right) > _MOST_ITEMS
        if is_too_much:
            raise jinja2.TemplateRuntimeError(f"the result of {operator} is too large")
        return super().call_binop(context, operator, left, right)


def _items(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _widest(form: str, values: Any) -> int:
    """The longest text that one place of a `%` format may ask for."""
    numbers = [int(digits) for digits in re.findall(r"[0-9]{1,20}", form)]
    if "*" in form:
        numbers += [value for value in values if isinstance(value, int)] if isinstance(values, tuple) else []
    return max(numbers, default=0)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own tojson escapes for HTML, which a model has never seen.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_plain,
    )


def _plain(value: Any) -> Any:
    """What JSON has no form for: nothing, and what a filter such as `map` makes lazily."""
    if isinstance(value, jinja2.Undefined):
        return None
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


def _raise_exception(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message)[:FAULT_CHARS])


def _reason(error: Exception) -> str:
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"line {error.lineno}: {error.message}"
    if isinstance(error, jinja2.TemplateError):
        return str(error)
    if isinstance(error, RecursionError):
        return "it nests or recurses too deeply"
    return f"{type(error).__name__}: {error}"
