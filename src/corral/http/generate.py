"""The routes that generate text, or measure what would be generated from: one way for every dialect."""

import time

import trio
from quart import Quart, Response, g, request

from corral.dialects import Call, Head, StreamEncoder
from corral.dialects.routes import CountRoute, Route
from corral.errors import ContextExceeded
from corral.http.asking import about, accept, asked_for, new_id
from corral.http.body import Bodies
from corral.http.connection import enter_for_request, peer_of
from corral.http.marks import speaks
from corral.http.options import HttpOptions
from corral.http.replies import JSON
from corral.http.stream import AnswerBody, Answering, GenerationSource, event_stream
from corral.serving.generation import Generation
from corral.serving.models import Models


def add_generate(app: Quart, route: Route, models: Models, bodies: Bodies, options: HttpOptions) -> None:
    """Serve one route of the table."""
    dialect = route.dialect

    @speaks(dialect)
    async def generate() -> Response:
        async with bodies.received(request) as body:
            call, model = await asked_for(models, bodies, dialect.parse, body)
        who = about(new_id(dialect.id_prefix), route.api, model, streams=call.wants_stream)
        generation = enter_for_request(model.service.open(call.request, g.client, who, peer_of(request)))
        accept(generation)
        try:
            return await _respond(call, generation, options, model.service.capacity.request_ctx_tokens)
        except Exception:
            generation.failed()  # unless it knows better
            raise

    generate.__doc__ = f"Generates text, in the manner of the {route.api} API."
    app.add_url_rule(route.path, f"generate {route.path}", generate, methods=list(route.methods))


def add_count(app: Quart, route: CountRoute, models: Models, bodies: Bodies) -> None:
    """Serve one route of the table that only measures."""
    dialect = route.dialect

    @speaks(dialect)
    async def count() -> Response:
        try:
            async with bodies.received(request) as body:
                asked, model = await asked_for(models, bodies, dialect.parse, body)
            with bodies.until_closed():
                prompt_tokens = await model.service.prompt_tokens(asked, g.client)
        except ContextExceeded as error:
            # Who asks wants to know by how much. If it was not even tokenized, it is at least so long.
            prompt_tokens = error.prompt_tokens
        return Response(dialect.told(prompt_tokens), content_type=JSON)

    count.__doc__ = "Counts the tokens of a prompt."
    app.add_url_rule(route.path, f"count {route.path}", count, methods=["POST"])


async def _respond(call: Call, generation: Generation, options: HttpOptions, ctx_tokens: int) -> Response:
    """The answer, or the head of a stream of it. Raises what went wrong before that.

    A stream begins when the prompt is written, so that a request which is refused for it gets a plain error.
    But what takes longer than the silence that a client is promised has to begin without, and does so at once
    where that is known: when a model is loaded first.
    """
    created_s = int(time.time())
    if not call.wants_stream:
        completions = await generation.complete()
        return whole(call.complete(_head(generation, created_s, ctx_tokens), completions), generation)
    with trio.move_on_after(0 if generation.is_loading else options.stream_keepalive_s):
        await generation.prepared()
    return streamed(generation, call.stream(_head(generation, created_s, ctx_tokens)), options)


def _head(generation: Generation, created_s: int, ctx_tokens: int) -> Head:
    record = generation.record
    return Head(record.about.id, created_s, record.about.model, record.prompt_tokens, ctx_tokens)


def whole(answer: bytes, generation: Answering) -> Response:
    """The response that is a whole answer."""
    response = Response(AnswerBody(answer, generation), content_type=JSON)
    response.content_length = len(answer)
    return response


def streamed(generation: Answering, encoder: StreamEncoder, options: HttpOptions) -> Response:
    """The response that streams an answer."""
    return event_stream(GenerationSource(generation, encoder), keepalive_s=options.stream_keepalive_s)
