"""The routes that make vectors of texts: a request like any other, whose answer comes whole."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import trio
from quart import Quart, Response, g, request

from corral.dialects import EmbedCall, Head
from corral.dialects.routes import EmbedRoute
from corral.http.asking import about, accept, asked_for, new_id
from corral.http.body import PARSE_ON_LOOP_BYTES, Bodies
from corral.http.connection import enter_for_request, peer_of
from corral.http.generate import whole
from corral.http.marks import speaks
from corral.serving.generation import Generation
from corral.serving.models import Models

THREADS = 1
"""Large answers that are written at the same time: 2,048 vectors of 4,096 numbers take half a second and some
hundred megabytes."""


TOKEN_BYTES = 36
"""What a token id holds in a tuple of them."""


def add_embed(app: Quart, route: EmbedRoute, models: Models, bodies: Bodies) -> None:
    """Serve one route of the table."""
    dialect = route.dialect
    threads = trio.CapacityLimiter(THREADS)

    @speaks(dialect)
    async def embed() -> Response:
        """Makes vectors of texts."""
        async with bodies.received(request, is_one_prompt=False) as body:
            call, model = await asked_for(models, bodies, dialect.parse, body)
        who = about(new_id(dialect.id_prefix), route.api, model, streams=False)
        opening = model.service.open(call.request, g.client, who, peer_of(request))
        generation = enter_for_request(_with_texts_held(opening, bodies, call))
        accept(generation)
        try:
            [completion] = await generation.complete()
            head = Head(who.id, int(time.time()), model.name, generation.record.prompt_tokens)
            pieces = call.complete(head, completion)
            if sum(map(len, completion.vectors)) <= PARSE_ON_LOOP_BYTES:
                return whole(b"".join(pieces), generation)
            return whole(await trio.to_thread.run_sync(_written, pieces, limiter=threads), generation)
        except Exception:
            generation.failed()  # unless it knows better
            raise

    app.add_url_rule(route.path, f"embed {route.path}", embed, methods=["POST"])


def _written(pieces: Iterable[bytes]) -> bytes:
    """All of them together; in a thread, which lets the event loop go on between two and can be cancelled."""
    written = []
    for piece in pieces:
        trio.from_thread.check_cancelled()
        written.append(piece)
    return b"".join(written)


@contextmanager
def _with_texts_held(
    opening: AbstractContextManager[Generation], bodies: Bodies, call: EmbedCall
) -> Iterator[Generation]:
    """Hold its texts as long as it is open. Raises Overloaded, or what opening does."""
    with bodies.texts_held(_held_bytes(call)), opening as generation:
        yield generation


def _held_bytes(call: EmbedCall) -> int:
    """What its inputs hold in memory: up to four bytes for a character, and more for a token."""
    embed = call.request.embed
    inputs = () if embed is None else embed.inputs
    return sum(sys.getsizeof(each.text) + TOKEN_BYTES * len(each.tokens or ()) for each in inputs)
