"""Which API is spoken where: the one table of them, made for each server.

Every path belongs to some API, those that no route has too: a client that misspells `/v1/messages/batches`
still parses errors as that API writes them.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from corral.dialects import Counter, Dialect, Embedder, Errors, Keeper
from corral.dialects.anthropic.errors import AnthropicErrors
from corral.dialects.anthropic.messages import CountDialect, MessagesDialect
from corral.dialects.openai.chat import ChatDialect
from corral.dialects.openai.embeddings import EmbeddingsDialect
from corral.dialects.openai.errors import OpenAIErrors
from corral.dialects.openai.responses import ResponsesDialect
from corral.dialects.openai.responses_kept import InputTokensDialect, KeptResponses
from corral.dialects.openai.responses_store import ResponsesStore


@dataclass(frozen=True, slots=True)
class Route:
    """A path that generates. `api` names it in the log, on /status and in the metrics."""

    path: str
    api: str
    dialect: Dialect
    methods: tuple[str, ...] = ("POST",)


@dataclass(frozen=True, slots=True)
class CountRoute:
    """A path that tells how long a prompt is, and generates nothing."""

    path: str
    dialect: Counter


@dataclass(frozen=True, slots=True)
class KeptRoute:
    """A path below which answers are found again by their ids."""

    path: str
    dialect: Keeper


@dataclass(frozen=True, slots=True)
class EmbedRoute:
    """A path that makes vectors of texts. `api` as of a Route."""

    path: str
    api: str
    dialect: Embedder


AnyRoute = Route | CountRoute | EmbedRoute | KeptRoute


@dataclass(frozen=True, slots=True)
class DialectOptions:
    """The settings of the dialects, by their names there."""

    stored_responses_bytes: int = 2**26
    stored_responses_s: float = 86_400.0


_FAMILIES: Final[tuple[tuple[str, Errors], ...]] = (
    ("", OpenAIErrors()),
    ("/v1/messages", AnthropicErrors()),
)
"""Whose errors are told where, for who knows no table: the transport answers what no app has seen."""


def table(options: DialectOptions) -> tuple[AnyRoute, ...]:
    """The routes of one server, with what they keep of its clients' answers."""
    seal_key = secrets.token_bytes(32)
    store = ResponsesStore(options.stored_responses_bytes, options.stored_responses_s, now=time.monotonic)
    responses = ResponsesDialect(store, seal_key)
    messages = MessagesDialect(seal_key)
    return (
        Route("/v1/chat/completions", "chat", ChatDialect()),
        Route("/v1/messages", "messages", messages),
        CountRoute("/v1/messages/count_tokens", CountDialect(messages)),
        Route("/v1/responses", "responses", responses),
        CountRoute("/v1/responses/input_tokens", InputTokensDialect(responses)),
        KeptRoute("/v1/responses", KeptResponses(store)),
        EmbedRoute("/v1/embeddings", "embeddings", EmbeddingsDialect()),
    )


def short_path(path: str) -> str:
    """A path without `/v1`, where it is answered too."""
    return path.removeprefix("/v1") if path.startswith("/v1/") else path


def errors_at(path: str, routes: Sequence[AnyRoute] = (), *, is_anthropics: bool = False) -> Errors:
    """Whose errors are told at a path: of the longest route that it is or lies below.

    Else OpenAI's or, to a client that `is_anthropics`, Anthropic's: both ask for /v1/models.
    """
    known = (*_FAMILIES, *((route.path, route.dialect) for route in routes))
    here = f"{short_path(path)}/"
    found = [
        (place, errors) for place, errors in known if not place or here.startswith(f"{short_path(place)}/")
    ]
    place, errors = max(found, key=lambda each: len(each[0]))
    return AnthropicErrors() if is_anthropics and not place else errors
