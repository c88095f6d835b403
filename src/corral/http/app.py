"""The Quart app: routes, and what happens to errors. It is made once the engine runs, with all it needs."""

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import msgspec
from quart import Response, g, request
from quart.typing import ResponseReturnValue
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from corral import __version__
from corral.books.record import About
from corral.dialects import Call, Dialect
from corral.dialects.chat import ChatDialect
from corral.errors import CorralError, MethodNotAllowed, NotFound
from corral.http.connection import ScopedHTTPConnection, enter_for_request
from corral.http.guard import (
    Access,
    HostCheck,
    KeyCheck,
    OriginCheck,
    access,
    access_of,
    client_key,
    read_body,
)
from corral.http.operator import OperatorCheck
from corral.http.pages import StaticFile, add_pages
from corral.http.status import add_status
from corral.http.stream import EVENT_STREAM, HEADERS, AnswerBody, GenerationBody
from corral.serving.generation import Generation, Service
from corral.watching.operations import Operations

logger = logging.getLogger("corral.http")

OPENAI = ChatDialect()
JSON = "application/json"
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """What the HTTP layer needs to know of Settings, and the model's public name."""

    model: str
    created_s: int
    keepalive_s: float
    body_limit_bytes: int
    body_timeout_s: float
    api_keys: tuple[str, ...]
    host_names: tuple[str, ...]
    status_key: str = ""
    shows_content: bool = False


class CorralApp(QuartTrio):
    asgi_http_class = ScopedHTTPConnection


def create_app(
    service: Service, operations: Operations, files: Mapping[str, StaticFile], options: HttpOptions
) -> CorralApp:
    """The app over a running service; `files` are those of static/."""
    app = CorralApp("corral", static_folder=None)
    hosts = HostCheck(options.host_names)
    origins = OriginCheck(options.host_names)
    keys = KeyCheck(options.api_keys)
    operators = OperatorCheck(
        status_key=options.status_key, api_keys=options.api_keys, shows_content=options.shows_content
    )

    @app.before_request
    async def guard() -> None:
        g.request_id = f"req_{secrets.token_hex(12)}"
        level = access_of(app.view_functions.get(request.endpoint or ""))
        hosts.check(request)
        origins.check(request, is_page=level is Access.PUBLIC and request.method == "GET")
        if level is Access.CLIENT:
            keys.check(request)
        elif level is Access.OPERATOR:
            operators.check(request)

    @app.after_request
    async def name_request(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.get("request_id", "")
        response.headers.update(SAFE_HEADERS)
        return response

    app.add_url_rule(
        "/v1/chat/completions", "chat", _generate(ChatDialect(), "chat", service, options), methods=["POST"]
    )
    add_pages(app, files)
    add_status(app, service, operations, operators, keepalive_s=options.keepalive_s)

    @app.get("/v1/models")
    async def models() -> Response:
        """The model, in OpenAI's list."""
        return _json({"object": "list", "data": [_model(service, options)]})

    @app.get("/v1/models/<path:name>")
    async def model(name: str) -> Response:
        """One model of that list."""
        if name != options.model:
            raise NotFound(f"there is no model {name!r} here, only {options.model!r}")
        return _json(_model(service, options))

    @app.get("/props")
    async def props() -> Response:
        """What this server is, and every route it has."""
        return _json(_props(app, service, options))

    @app.get("/health")
    @access(Access.PUBLIC)
    async def health() -> Response:
        """200 while requests are taken and answered; else 503 and why not."""
        if service.failure is not None:
            return _json({"status": "failed", "message": service.failure.message}, status=503)
        if service.is_draining:
            return _json({"status": "draining"}, status=503)
        if operations.stall.is_stalled:
            age_s = round(operations.stall.step_age_s or 0.0, 1)
            return _json({"status": "stalled", "step_age_s": age_s}, status=503)
        return _json({"status": "ok"})

    @app.errorhandler(Exception)
    async def fail(error: Exception) -> Response:
        return _error(OPENAI, _as_corral_error(error))

    return app


def _generate(
    dialect: Dialect, api: str, service: Service, options: HttpOptions
) -> Callable[[], Awaitable[ResponseReturnValue]]:
    """The route of a dialect: one way for all of them, streaming or not."""

    async def generate() -> ResponseReturnValue:
        try:
            return await respond()
        except Exception as error:
            return _error(dialect, _as_corral_error(error))

    async def respond() -> Response:
        body = await read_body(
            request, limit_bytes=options.body_limit_bytes, timeout_s=options.body_timeout_s
        )
        call = dialect.parse(body)
        client = client_key(request)
        prepared = await service.prepare(call.request, client)
        about = About(
            id=f"{dialect.id_prefix}{secrets.token_hex(12)}",
            api=api,
            model=options.model,
            streams=call.wants_stream,
            address=request.remote_addr or "",
        )
        generation = enter_for_request(service.open(prepared, client, about))
        generation.has_stalled = request.scope["extensions"]["corral.transport"]["stalled"]
        try:
            return await _respond(call, generation, about, options)
        except Exception:
            generation.record.ended_by("failed")  # unless it knows better
            raise

    generate.__doc__ = f"Generates text, in the manner of the {api} API; POST."
    return generate


async def _respond(call: Call, generation: Generation, about: About, options: HttpOptions) -> Response:
    created_s = int(time.time())
    if not call.wants_stream:
        completions = await generation.complete()
        answer = call.complete(about.id, created_s, options.model, completions)
        response = Response(AnswerBody(answer, generation.record), content_type=JSON)
        response.content_length = len(answer)
        return response
    stream = GenerationBody(
        generation,
        call.stream(about.id, created_s, options.model),
        keepalive_s=options.keepalive_s,
        abort=request.scope["extensions"]["corral.transport"]["abort"],
    )
    response = Response(stream, content_type=EVENT_STREAM, headers=HEADERS)
    response.timeout = None  # else Quart's RESPONSE_TIMEOUT cuts every stream after a minute
    return response


def _as_corral_error(error: Exception) -> CorralError:
    """Anything a handler raised, as something to tell the client; bugs are logged here, once."""
    match error:
        case CorralError():
            return error
        case HTTPException(code=405):
            allowed = tuple(sorted(getattr(error, "valid_methods", None) or ()))
            return MethodNotAllowed(f"{request.path} does not take {request.method}", allowed=allowed)
        case HTTPException(code=code) if code is not None and code < 500:
            return NotFound(f"there is nothing at {request.path}")
        case _:
            logger.error("%s %s failed [%s]", request.method, request.path, g.request_id, exc_info=error)
            return CorralError("internal error")


def _error(dialect: Dialect, error: CorralError) -> Response:
    reply = dialect.error(error)
    return Response(reply.body, status=reply.status, content_type=JSON, headers=reply.headers)


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status=status, content_type=JSON)


def _model(service: Service, options: HttpOptions) -> dict[str, object]:
    return {
        "id": options.model,
        "object": "model",
        "created": options.created_s,
        "owned_by": "corral",
        "max_model_len": service.capacity.request_ctx_tokens,
    }


def _props(app: CorralApp, service: Service, options: HttpOptions) -> dict[str, object]:
    routes = []
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        view = app.view_functions[rule.endpoint]
        routes.append(
            {
                "path": rule.rule,
                "methods": sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}),
                "access": access_of(view).name.lower(),
                "about": (view.__doc__ or "").partition("\n")[0],
            }
        )
    return {
        "server": "corral",
        "version": __version__,
        "model": options.model,
        "slots": service.capacity.slots,
        "ctx_tokens": service.capacity.ctx_tokens,
        "request_ctx_tokens": service.capacity.request_ctx_tokens,
        "keepalive_s": options.keepalive_s,
        "body_limit_bytes": options.body_limit_bytes,
        "needs_api_key": bool(options.api_keys),
        "routes": routes,
    }
