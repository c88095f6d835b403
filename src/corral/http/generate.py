"""The routes that generate text: one way for every dialect, streaming or not."""

import secrets
import time

from quart import Quart, Request, Response, request

from corral.books.record import About
from corral.dialects import Call, Head, Headers
from corral.dialects.routes import Route
from corral.http.body import read_body
from corral.http.connection import enter_for_request
from corral.http.guard import client_key
from corral.http.marks import speaks
from corral.http.options import HttpOptions
from corral.http.replies import JSON
from corral.http.stream import EVENT_STREAM, HEADERS, AnswerBody, GenerationBody
from corral.serving.generation import Generation, Service


def add_generate(app: Quart, route: Route, service: Service, options: HttpOptions) -> None:
    """Serve one route of the table."""
    dialect = route.dialect

    @speaks(dialect)
    async def generate() -> Response:
        body = await read_body(
            request, limit_bytes=options.body_limit_bytes, timeout_s=options.body_timeout_s
        )
        call = dialect.parse(body, _headers(request))
        client = client_key(request)
        prepared = await service.prepare(call.request, client)
        about = About(
            id=f"{dialect.id_prefix}{secrets.token_hex(12)}",
            api=route.api,
            model=options.model,
            streams=call.wants_stream,
            address=request.remote_addr or "",
        )
        generation = enter_for_request(service.open(prepared, client, about))
        generation.has_stalled = request.scope["extensions"]["corral.transport"]["stalled"]
        head = Head(about.id, int(time.time()), about.model, prepared.prompt_tokens)
        try:
            return await _respond(call, head, generation, options)
        except Exception:
            generation.record.ended_by("failed")  # unless it knows better
            raise

    generate.__doc__ = f"Generates text, in the manner of the {route.api} API."
    app.add_url_rule(route.path, f"generate {route.path}", generate, methods=list(route.methods))


async def _respond(call: Call, head: Head, generation: Generation, options: HttpOptions) -> Response:
    if not call.wants_stream:
        answer = call.complete(head, await generation.complete())
        response = Response(AnswerBody(answer, generation.record), content_type=JSON)
        response.content_length = len(answer)
        return response
    stream = GenerationBody(
        generation,
        call.stream(head),
        keepalive_s=options.keepalive_s,
        abort=request.scope["extensions"]["corral.transport"]["abort"],
    )
    response = Response(stream, content_type=EVENT_STREAM, headers=HEADERS)
    response.timeout = None  # else Quart's RESPONSE_TIMEOUT cuts every stream after a minute
    return response


def _headers(request: Request) -> Headers:
    """A request's headers as dialects see them."""
    headers: dict[str, str] = {}
    for name, value in request.headers:
        name = name.lower()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
