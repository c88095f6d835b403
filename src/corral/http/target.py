"""What a request line asks for: a path and, in the form that proxies use, a host (RFC 9112, 3.2)."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from corral.errors import InvalidRequest

_ABSOLUTE: Final = re.compile(rb"https?://(?P<authority>[^/?#]+)(?P<path>/[^?#]*)?", re.IGNORECASE)
_HOST: Final = re.compile(
    r"(?P<name>\[[0-9a-f:.]+\]|[^\s\[\]/?#@:,]+)(:(?P<port>[0-9]{0,5}))?", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Host:
    """A host as `Host`, `Origin` or a target names it: in lower case, an IPv6 address without brackets."""

    name: str
    port: int | None


@dataclass(frozen=True, slots=True)
class Target:
    """`path` is decoded and begins with a slash, or is "*". Only the absolute form has an `authority`."""

    path: str
    authority: str | None = None


def read_target(raw: bytes) -> Target:
    """A request's target, without its query. Raises InvalidRequest for one that asks for nothing of ours."""
    if raw.startswith(b"/") or raw == b"*":
        return Target(unquote(raw.decode("latin-1")))
    absolute = _ABSOLUTE.fullmatch(raw)
    if absolute is None:
        raise InvalidRequest("the request's target is neither a path nor an http URL")
    return Target(
        unquote((absolute["path"] or b"/").decode("latin-1")), absolute["authority"].decode("latin-1")
    )


def read_host(text: str) -> Host | None:
    """A host with or without a port; None for what is not one."""
    match = _HOST.fullmatch(text)
    if match is None:
        return None
    port = int(match["port"]) if match["port"] else None
    return Host(match["name"].strip("[]").lower(), port) if port is None or port < 65536 else None
