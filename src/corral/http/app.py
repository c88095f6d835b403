"""The Quart app: routes, and what happens to errors. It is made once the engine runs, with all it needs."""

import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from quart import Response, g, request
from quart.typing import ResponseReturnValue
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from corral.dialects import Dialect
from corral.dialects.chat import ChatDialect
from corral.errors import CorralError, MethodNotAllowed, NotFound
from corral.http.connection import ScopedHTTPConnection, enter_for_request
from corral.http.guard import HostCheck, KeyCheck, client_key, read_body
from corral.http.stream import HEADERS, EventStreamBody
from corral.serving.generation import Service

logger = logging.getLogger("corral.http")

OPENAI = ChatDialect()
JSON = "application/json"
KEYLESS_PATHS = frozenset({"/health"})  # load balancers carry no key


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


class CorralApp(QuartTrio):
    asgi_http_class = ScopedHTTPConnection


def create_app(service: Service, options: HttpOptions) -> CorralApp:
    """The app over a running service."""
    app = CorralApp("corral", static_folder=None)
    hosts = HostCheck(options.host_names)
    keys = KeyCheck(options.api_keys)

    @app.before_request
    async def guard() -> None:
        g.request_id = f"req_{secrets.token_hex(12)}"
        hosts.check(request)
        if request.path not in KEYLESS_PATHS:
            keys.check(request)

    @app.after_request
    async def name_request(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.get("request_id", "")
        return response

    app.add_url_rule(
        "/v1/chat/completions", "chat", _generate(ChatDialect(), service, options), methods=["POST"]
    )

    @app.get("/v1/models")
    async def models() -> Response:
        return _json({"object": "list", "data": [_model(service, options)]})

    @app.get("/v1/models/<path:name>")
    async def model(name: str) -> Response:
        if name != options.model:
            raise NotFound(f"there is no model {name!r} here, only {options.model!r}")
        return _json(_model(service, options))

    @app.get("/health")
    async def health() -> Response:
        if service.failure is not None:
            return _json({"status": "failed", "message": service.failure.message}, status=503)
        if service.is_draining:
            return _json({"status": "draining"}, status=503)
        return _json({"status": "ok"})

    @app.errorhandler(Exception)
    async def fail(error: Exception) -> Response:
        return _error(OPENAI, _as_corral_error(error))

    return app


def _generate(
    dialect: Dialect, service: Service, options: HttpOptions
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
        prepared = await service.prepare(call.request)
        generation = enter_for_request(service.open(prepared, client_key(request)))
        id, created_s = f"{dialect.id_prefix}{secrets.token_hex(12)}", int(time.time())
        if not call.wants_stream:
            completions = await generation.complete()
            return Response(call.complete(id, created_s, options.model, completions), content_type=JSON)
        body_stream = EventStreamBody(
            generation,
            call.stream(id, created_s, options.model),
            keepalive_s=options.keepalive_s,
            abort=request.scope["extensions"]["corral.transport"]["abort"],
        )
        response = Response(body_stream, content_type="text/event-stream; charset=utf-8", headers=HEADERS)
        response.timeout = None  # else Quart's RESPONSE_TIMEOUT cuts every stream after a minute
        return response

    return generate


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
        "max_model_len": service.request_ctx_tokens,
    }
