"""The Quart app: who may come in, what is told of errors, and the routes. Made once the engine runs."""

import logging
import secrets
from collections.abc import Mapping, Sequence

from quart import Response, g, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from corral.dialects.routes import ROUTES, Route, errors_at
from corral.errors import CorralError, MethodNotAllowed, NotFound
from corral.http.connection import ScopedHTTPConnection
from corral.http.generate import add_generate
from corral.http.guard import HostCheck, KeyCheck, OriginCheck
from corral.http.info import add_health, add_models, add_props
from corral.http.marks import Access, Marks, marks_of
from corral.http.operator import OperatorCheck
from corral.http.options import HttpOptions
from corral.http.pages import StaticFile, add_pages
from corral.http.replies import error_reply
from corral.http.status import add_status
from corral.serving.generation import Service
from corral.watching.operations import Operations

logger = logging.getLogger("corral.http")

SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class CorralApp(QuartTrio):
    asgi_http_class = ScopedHTTPConnection


def create_app(
    service: Service,
    operations: Operations,
    files: Mapping[str, StaticFile],
    options: HttpOptions,
    routes: Sequence[Route] = ROUTES,
) -> CorralApp:
    """The app over a running service; `files` are those of static/."""
    app = CorralApp("corral", static_folder=None)
    operators = OperatorCheck(
        status_key=options.status_key, api_keys=options.api_keys, shows_content=options.shows_content
    )
    _add_guard(app, options, operators)
    _add_errors(app, routes)
    for route in routes:
        add_generate(app, route, service, options)
    add_pages(app, files)
    add_status(app, service, operations, operators, keepalive_s=options.keepalive_s)
    add_models(app, service, options)
    add_props(app, service, options)
    add_health(app, service, operations)
    return app


def _add_guard(app: CorralApp, options: HttpOptions, operators: OperatorCheck) -> None:
    """Check who asks before any view runs, and put on every answer what browsers are to know."""
    hosts = HostCheck(options.host_names)
    origins = OriginCheck(options.host_names)
    keys = KeyCheck(options.api_keys)

    @app.before_request
    async def guard() -> None:
        g.request_id = f"req_{secrets.token_hex(12)}"
        level = _marks(app).access
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


def _add_errors(app: CorralApp, routes: Sequence[Route]) -> None:
    """Answer every exception in the shape of the API that was asked, whoever raised it."""

    @app.errorhandler(Exception)
    async def fail(error: Exception) -> Response:
        errors = _marks(app).errors or errors_at(request.path, routes)
        return error_reply(errors, _as_corral_error(error), g.request_id)


def _marks(app: CorralApp) -> Marks:
    """What is noted on the view of the current request."""
    return marks_of(app.view_functions.get(request.endpoint or ""))


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
