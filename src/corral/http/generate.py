"""The routes that generate text: one way for every dialect, streaming or not."""

import secrets
import time
from functools import partial

from quart import Quart, Request, Response, g, request

from corral.books.record import About
from corral.dialects import Call, Head, Headers, StreamEncoder
from corral.dialects.routes import Route
from corral.http.body import Bodies
from corral.http.connection import enter_for_request, peer_of
from corral.http.marks import speaks
from corral.http.options import HttpOptions, ModelCard
from corral.http.replies import JSON
from corral.http.stream import AnswerBody, Answering, GenerationSource, event_stream
from corral.serving.generation import Generation
from corral.serving.service import Service


def add_generate(
    app: Quart, route: Route, service: Service, bodies: Bodies, card: ModelCard, options: HttpOptions
) -> None:
    """Serve one route of the table."""
    dialect = route.dialect

    @speaks(dialect)
    async def generate() -> Response:
        async with bodies.received(request) as body:
            call = await bodies.parse(partial(dialect.parse, headers=headers_of(request)), body)
        prepared = await service.prepare(call.request, g.client)
        about = About(
            id=f"{dialect.id_prefix}{secrets.token_hex(12)}",
            api=route.api,
            model=card.name,
            streams=call.wants_stream,
            address=request.remote_addr or "",
            request_id=g.request_id,
        )
        generation = enter_for_request(service.open(prepared, g.client, about, peer_of(request)))
        g.is_accepted = True
        head = Head(about.id, int(time.time()), about.model, prepared.prompt_tokens)
        try:
            return await _respond(call, head, generation, options)
        except Exception:
            generation.failed()  # unless it knows better
            raise

    generate.__doc__ = f"Generates text, in the manner of the {route.api} API."
    app.add_url_rule(route.path, f"generate {route.path}", generate, methods=list(route.methods))


def is_accepted() -> bool:
    """Whether the current request was accepted: what goes wrong from then on is no refusal."""
    return bool(g.get("is_accepted", False))


async def _respond(call: Call, head: Head, generation: Generation, options: HttpOptions) -> Response:
    if not call.wants_stream:
        return whole(call.complete(head, await generation.complete()), generation)
    return streamed(generation, call.stream(head), options)


def whole(answer: bytes, generation: Answering) -> Response:
    """The response that is a whole answer."""
    response = Response(AnswerBody(answer, generation), content_type=JSON)
    response.content_length = len(answer)
    return response


def streamed(generation: Answering, encoder: StreamEncoder, options: HttpOptions) -> Response:
    """The response that streams an answer."""
    return event_stream(GenerationSource(generation, encoder), keepalive_s=options.stream_keepalive_s)


def headers_of(request: Request) -> Headers:
    """A request's headers as dialects see them."""
    headers: dict[str, str] = {}
    for name, value in request.headers:
        name = name.lower()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
