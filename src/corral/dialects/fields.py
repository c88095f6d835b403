"""What corral does with each field of a request: the rows of one table per API, from which the refusals are
made and docs/api.md is written, and of which a test tries each.

The rule: what changes the text, or what else a client gets, is honoured or refused by name, unless its value
asks for what happens anyway. What promises nothing that a client could notice is accepted. A field of no row
passes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from corral.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the request's body. `servers` are those that know it, by their initials, where the table has
    more than one.

    `example` is a value with an effect, for the test. `about` is for docs/api.md.
    """

    name: str
    servers: str
    example: Any
    about: str


@dataclass(frozen=True, slots=True)
class Honoured(Field):
    """What it asks for happens."""


@dataclass(frozen=True, slots=True)
class Harmless(Field):
    """Accepted, whatever its value: nothing that it asks for could be noticed."""


@dataclass(frozen=True, slots=True)
class Refused(Field):
    """Refused by name, unless it has one of the values `unless`."""

    unless: tuple[Any, ...] = ()


def refuse(body: msgspec.Struct, fields: Iterable[Refused]) -> None:
    """Raise InvalidRequest for the first field with an effect that corral does not have."""
    for field in fields:
        value = getattr(body, field.name)
        if value is not None and value not in field.unless:
            raise InvalidRequest(f"'{field.name}' is not supported by this server.", param=field.name)


def table(fields: Sequence[Field], servers: Mapping[str, str] | None = None) -> str:
    """The rows as they are in docs/api.md; `servers` are the names behind the initials."""
    if servers is None:
        lines = ["| field | what corral does |", "|---|---|"]
        lines += [f"| `{field.name}` | {_told(field)} |" for field in fields]
    else:
        lines = ["| field | of | what corral does |", "|---|---|---|"]
        for field in fields:
            known = ", ".join(servers[initial] for initial in field.servers)
            lines.append(f"| `{field.name}` | {known} | {_told(field)} |")
    return "\n".join(lines) + "\n"


def _told(field: Field) -> str:
    what = field.about
    match field:
        case Honoured():
            return what or "honoured"
        case Refused():
            harmless = ", ".join(f"`{_json(value)}`" for value in field.unless)
            refused = f"refused, unless {harmless}" if harmless else "refused"
            return f"{refused}: {what}" if what else refused
        case _:
            return f"accepted: {what}" if what else "accepted"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
