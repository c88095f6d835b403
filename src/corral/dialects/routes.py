"""Which API is spoken where: the one table of them.

Every path belongs to some API, those that no route has too: a client that misspells `/v1/messages/batches`
still parses errors as that API writes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from corral.dialects import Dialect, Errors
from corral.dialects.openai.chat import ChatDialect
from corral.dialects.openai.errors import OpenAIErrors


@dataclass(frozen=True, slots=True)
class Route:
    """A path that generates. `api` names it in the log, on /status and in the metrics."""

    path: str
    api: str
    dialect: Dialect
    methods: tuple[str, ...] = ("POST",)


ROUTES: Final = (Route("/v1/chat/completions", "chat", ChatDialect()),)
_ELSEWHERE: Final = OpenAIErrors()


def short_path(path: str) -> str:
    """A path without `/v1`, where it is answered too."""
    return path.removeprefix("/v1") if path.startswith("/v1/") else path


def errors_at(path: str, routes: Sequence[Route] = ROUTES) -> Errors:
    """Whose errors are told at a path: of the longest route that it is or lies below, else OpenAI's."""
    path = f"{short_path(path)}/"
    found = [route for route in routes if path.startswith(f"{short_path(route.path)}/")]
    return max(found, key=lambda route: len(route.path)).dialect if found else _ELSEWHERE
