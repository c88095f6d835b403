"""The routes that make vectors of texts: a request like any other, whose answer comes whole."""

import secrets
import time
from functools import partial

import trio
from quart import Quart, Response, g, request

from corral.books.record import About
from corral.dialects import Head
from corral.dialects.routes import EmbedRoute
from corral.http.body import PARSE_ON_LOOP_BYTES, Bodies
from corral.http.connection import enter_for_request, peer_of
from corral.http.generate import headers_of, whole
from corral.http.marks import speaks
from corral.http.options import ModelCard
from corral.serving.service import Service

THREADS = 1
"""Large answers that are written at the same time: 2,048 vectors take a tenth of a second and some memory."""


def add_embed(app: Quart, route: EmbedRoute, service: Service, bodies: Bodies, card: ModelCard) -> None:
    """Serve one route of the table."""
    dialect = route.dialect
    threads = trio.CapacityLimiter(THREADS)

    @speaks(dialect)
    async def embed() -> Response:
        """Makes vectors of texts."""
        async with bodies.received(request, is_one_prompt=False) as body:
            parse = partial(dialect.parse, headers=headers_of(request), client=g.client)
            call = await bodies.parse(parse, body)
        about = About(
            id=f"{dialect.id_prefix}{secrets.token_hex(12)}",
            api=route.api,
            model=card.name,
            streams=False,
            address=request.remote_addr or "",
            request_id=g.request_id,
        )
        generation = enter_for_request(service.open(call.request, g.client, about, peer_of(request)))
        g.is_accepted = True
        try:
            [completion] = await generation.complete()
            head = Head(about.id, int(time.time()), card.name, generation.record.prompt_tokens)
            write = partial(call.complete, head, completion)
            is_small = sum(map(len, completion.vectors)) <= PARSE_ON_LOOP_BYTES
            answer = write() if is_small else await trio.to_thread.run_sync(write, limiter=threads)
            return whole(answer, generation)
        except Exception:
            generation.failed()  # unless it knows better
            raise

    app.add_url_rule(route.path, f"embed {route.path}", embed, methods=["POST"])
