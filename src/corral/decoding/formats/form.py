"""How a model writes thoughts and calls, as data: what is learned, shown, parsed by and written with.

A call is `section_begin`, then for each call `begin`, a body and `end`, with `joiner` in between, then
`section_end`. The literals are kept as the template spells them, whitespace included; the parser is free
about whitespace, except next to the text of a value. Where something that is no constant stands inside a
literal (an id, a counter, the word for a type) the literal has a hole there: a `Pattern` is its pieces.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

Pattern = tuple[str, ...]
"""The literal pieces around holes: one piece has no hole, two have one between them."""

Source = Literal["learned", "instructions", "vocabulary", "known", "generic"]

# Where no vocabulary is at hand, a text of this shape is taken for a control token.
CONTROL_SHAPE = re.compile(
    r"<\|[^<>|\s]{1,64}\|>"  # <|name|>
    r"|<\uff5c[^<>\uff5c\s]{1,64}\uff5c>"
    r"|<\|[a-z_/]{1,32}>|<[a-z_/]{1,32}\|>"  # <|name>, <name|>
    r"|\[/?[A-Z][A-Z_]+\]"  # [NAME]
    r"|<SPECIAL_\d+>"
)


class JsonBody(msgspec.Struct, frozen=True, tag_field="kind", tag="json"):
    """The call is one JSON object that holds its name and its arguments.

    `name_key` None: the object has one key, the name, whose value is the arguments. `within` is the key
    of an object around name and arguments, where there is one. `is_text`: the arguments are JSON inside a
    string. `separators` stand between two items, and between key and value.
    """

    name_key: str | None = "name"
    arguments_key: str = "arguments"
    id_key: str | None = None
    id_first: bool = False
    within: str | None = None
    is_text: bool = False
    separators: tuple[str, str] = (", ", ": ")


class NamedBody(msgspec.Struct, frozen=True, tag_field="kind", tag="name and json"):
    """The name, then the arguments as one object in JSON."""

    after_name: Pattern = ("",)
    separators: tuple[str, str] = (", ", ": ")


class PairsBody(msgspec.Struct, frozen=True, tag_field="kind", tag="name and pairs"):
    """The name, then each argument by itself: key, value, and what stands around them.

    `after_value` in two pieces has the key between them. A value is `raw` text up to `after_value`, with
    strings as they are and everything else as JSON, or a self-delimiting literal (`json`, `python`), with
    strings in `quote` where it is given. A hole in `before_key` or `after_key` holds the word for the
    value's type: `string_mark` for a string, `other_mark` for a number. `item` is the tag of a list's
    elements where objects and lists are written as tags of their own. `is_cdata`: text that looks like
    tags stands in a CDATA section.
    """

    after_name: Pattern = ("",)
    before_key: Pattern = ("",)
    after_key: Pattern = ("",)
    after_value: Pattern = ("",)
    separator: str = ""
    values: Literal["raw", "json", "python"] = "raw"
    quote: str = ""
    string_mark: str | None = None
    other_mark: str | None = None
    item: str | None = None
    is_cdata: bool = False


Body = JsonBody | NamedBody | PairsBody


@dataclass(frozen=True, slots=True)
class CallForm:
    """One way to write calls. Several bodies: the first character after `begin` tells which it is.

    `list_open` and `list_close` are the brackets around all calls, where they stand in a list. `first_count`
    is the number of the first call, where holes hold numbers; None where they hold ids. `names_twice`: the
    hole in `begin` holds the name. `end_rest`: the name, or the number, stands between `end` and this.
    `begun` is the part of `begin` that every prompt ends with: whatever comes goes on behind it.
    """

    bodies: tuple[Body, ...]
    section_begin: str = ""
    begin: Pattern = ("",)
    end: str = ""
    joiner: str = ""
    section_end: str = ""
    list_open: str = ""
    list_close: str = ""
    first_count: int | None = None
    names_twice: bool = False
    end_rest: str | None = None
    begun: str = ""

    def end_of(self, name: str, mark: str) -> str:
        """What ends a call of this name, with this id or number."""
        if self.end_rest is None:
            return self.end
        return self.end + (name if self.first_count is None else mark) + self.end_rest

    @property
    def is_list(self) -> bool:
        return bool(self.list_open)


@dataclass(frozen=True, slots=True)
class ThoughtForm:
    """Thoughts: what opens and closes one. `begins_turn_only`: further on, the opener is text."""

    opener: str
    closer: str


@dataclass(frozen=True, slots=True)
class Headers:
    """An answer of several messages, each with a header that says who or what it is for.

    `start` begins a further message, `body` ends its header, any of `ends` its text. The header of a call
    holds `recipient` and the name.
    """

    start: str
    body: str
    ends: tuple[str, ...]
    thought: str | None
    content: str
    recipient: str | None


@dataclass(frozen=True, slots=True)
class Format:
    """All that the parser needs to know of a model.

    `content_opener` and `content_closer` surround the answer itself in some formats. `glue` stands
    between the parts of one turn, `ends` are what a turn ends with. `controls` are the control tokens
    that occur in any of the literals. `prompts` are generation prompts by thinking: default, on, off.
    """

    source: Source
    calls: tuple[CallForm, ...] = ()
    thought: ThoughtForm | None = None
    headers: Headers | None = None
    content_opener: str = ""
    content_closer: str = ""
    glue: str = ""
    ends: tuple[str, ...] = ()
    controls: frozenset[str] = frozenset()


def split_controls(text: str, controls: Iterable[str]) -> list[str]:
    """The text in pieces, each one control token or free of them."""
    texts = sorted((control for control in controls if control), key=len, reverse=True)
    if not texts:
        return [text] if text else []
    return [piece for piece in re.split(f"({'|'.join(map(re.escape, texts))})", text) if piece]
