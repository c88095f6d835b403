"""The Quart app: who may come in, what is told of errors, and the routes. Made once the engine runs."""

import logging
from collections.abc import Iterable, Mapping, Sequence

from quart import Response, g, request
from quart.wrappers.base import BaseRequestWebsocket
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter

from corral.books.ledger import Ledger, Refusal
from corral.dialects import Errors
from corral.dialects.routes import AnyRoute, CountRoute, EmbedRoute, KeptRoute, Route, errors_at, short_path
from corral.errors import (
    CorralError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    code_of,
)
from corral.http.asking import accepted
from corral.http.body import Bodies
from corral.http.complete import add_completions
from corral.http.connection import UNREAD_BYTES, CorralRequest, ScopedHTTPConnection, target_of_request
from corral.http.cors import Cors
from corral.http.embed import add_embed
from corral.http.generate import add_count, add_generate
from corral.http.guard import (
    HostCheck,
    KeyCheck,
    OriginCheck,
    check_expectation,
    client_of,
    request_id_of,
)
from corral.http.info import add_health, add_models, add_props
from corral.http.kept import add_kept
from corral.http.marks import Access, Marks, marks_of
from corral.http.operator import OperatorCheck
from corral.http.options import HttpOptions
from corral.http.pages import StaticFile, add_pages
from corral.http.replies import error_reply
from corral.http.status import add_status
from corral.http.texts import add_texts
from corral.serving.models import Models
from corral.watching.watch import Watching

logger = logging.getLogger("corral.http")

BODIES = 4
"""The largest bodies that may be in memory together, where no setting says how many bytes that is."""
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class CorralApp(QuartTrio):
    """Quart without what it answers by itself in a shape of its own: redirects, HTML, 500 for odd hosts."""

    asgi_http_class = ScopedHTTPConnection
    request_class = CorralRequest

    def create_url_adapter(self, request: BaseRequestWebsocket | None) -> MapAdapter | None:
        """Match paths alone. Quart matches `Host` too, and fails on names that no DNS would take."""
        if request is None:
            return None
        return self.url_map.bind("localhost", path_info=request.path, default_method=request.method)

    async def make_default_options_response(self, _context: object = None) -> Response:
        """What a path takes, without the empty HTML page that Quart sends along; 0.23 gives a context."""
        methods = set() if request.url_rule is None else request.url_rule.methods
        return Response(b"", status=204, headers={"Allow": ", ".join(sorted(methods or ()))})


def create_app(
    models: Models,
    watching: Watching,
    files: Mapping[str, StaticFile],
    options: HttpOptions,
    routes: Sequence[AnyRoute],
) -> CorralApp:
    """The app over running models; `files` are those of static/."""
    app = CorralApp("corral", static_folder=None)
    app.url_map.merge_slashes = False  # else every doubled slash is answered with a redirect
    operators = OperatorCheck(
        status_key=options.status_key, api_keys=options.api_keys, shows_content=options.status_content
    )
    _add_guard(app, options, operators, routes)
    _add_errors(app, routes, models.ledger)
    capacity = models.capacity
    bodies = Bodies(
        limit_bytes=options.body_limit_bytes,
        memory_bytes=options.body_memory_bytes or BODIES * options.body_limit_bytes,
        timeout_s=options.body_timeout_s,
        prompt_bytes=capacity.prompt_bytes,
        ctx_tokens=capacity.request_ctx_tokens,
    )
    models.on_draining.append(bodies.close)
    for route in routes:
        match route:
            case Route():
                add_generate(app, route, models, bodies, options)
            case CountRoute():
                add_count(app, route, models, bodies)
            case EmbedRoute():
                add_embed(app, route, models, bodies)
            case KeptRoute():
                add_kept(app, route, models)
    add_completions(app, models, bodies, options)
    add_texts(app, models, bodies)
    add_pages(app, files)
    add_status(app, models, watching, operators, bodies, keepalive_s=options.stream_keepalive_s)
    add_models(app, models)
    add_props(app, models, options)
    add_health(app, models, watching)
    _add_short_paths(app)
    return app


def _add_short_paths(app: CorralApp) -> None:
    """Answer without `/v1` too what clients ask for: people forget it in a base URL."""
    rules = tuple(app.url_map.iter_rules())
    taken = {rule.rule for rule in rules}
    for rule in rules:
        view, short = app.view_functions[rule.endpoint], short_path(rule.rule)
        if marks_of(view).access is Access.CLIENT and short not in taken:
            app.add_url_rule(
                short, rule.endpoint, view, methods=sorted((rule.methods or set()) - {"OPTIONS"})
            )


def _add_guard(
    app: CorralApp, options: HttpOptions, operators: OperatorCheck, routes: Sequence[AnyRoute]
) -> None:
    """Check who asks before any view runs, and put on every answer what browsers are to know."""
    hosts = HostCheck((*options.allowed_hosts, options.bind))
    origins = OriginCheck(options.allowed_hosts)
    cors = Cors(options.allowed_origins)
    keys = KeyCheck(options.api_keys)

    @app.before_request
    async def guard() -> Response | None:
        g.request_id = request_id_of(request)
        level = _marks(app).access
        check_expectation(request)
        hosts.check(request.headers.get("Host", ""), target_of_request().authority)
        g.is_let_in = level is not Access.OPERATOR and cors.lets_in(request)
        origins.check(
            request, is_page=level is Access.PUBLIC and request.method == "GET", is_let_in=g.is_let_in
        )
        if g.is_let_in and cors.is_preflight(request) and request.url_rule is not None:
            return cors.preflight(request, _methods_of(app))
        if level is Access.CLIENT:
            g.client = client_of(request, keys.check(request))
        elif level is Access.OPERATOR:
            operators.check(request)
        return None

    @app.after_request
    async def name_request(response: Response) -> Response:
        if (asked := accepted()) is not None:
            asked.answered(response.status_code)
        response.headers["X-Request-Id"] = g.get("request_id", "")
        response.headers[_errors(app, routes).id_header] = response.headers["X-Request-Id"]
        response.headers.update(SAFE_HEADERS)
        if cors:
            response.headers.add("Vary", "Origin")
            if g.get("is_let_in", False):
                cors.admit(request, response)
        return response


def _add_errors(app: CorralApp, routes: Sequence[AnyRoute], ledger: Ledger) -> None:
    """Answer every exception in the shape of the API that was asked, whoever raised it, and count
    refusals."""

    @app.errorhandler(Exception)
    async def fail(error: Exception) -> Response:
        errors = _errors(app, routes)
        told = _as_corral_error(error)
        response = error_reply(errors, told, g.request_id)
        if accepted() is None:
            ledger.refuse(
                Refusal(
                    id=g.request_id,
                    address=request.remote_addr or "",
                    method=request.method,
                    path=request.path,
                    status=response.status_code,
                    code=code_of(told),
                    param=told.param if isinstance(told, InvalidRequest) else None,
                )
            )
        return response


def _errors(app: CorralApp, routes: Sequence[AnyRoute]) -> Errors:
    """Whose errors the current request is told."""
    is_anthropics = "Anthropic-Version" in request.headers  # which its clients always send
    return _marks(app).errors or errors_at(request.path, routes, is_anthropics=is_anthropics)


def _methods_of(app: CorralApp) -> Iterable[str]:
    """What the path of the current request takes, whichever view that is for."""
    adapter = app.create_url_adapter(request)
    assert adapter is not None
    return adapter.allowed_methods()


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
        case HTTPException(code=413):
            return PayloadTooLarge("there is nothing to be done with a body here", limit_bytes=UNREAD_BYTES)
        case HTTPException(code=404):
            ollama = "; Ollama's own API is not spoken" if request.path.startswith("/api/") else ""
            there = "the APIs are below /v1, and GET /props lists them"
            return NotFound(f"there is nothing at {request.path}{ollama}; {there}")
        case _:
            logger.error("%s %s failed [%s]", request.method, request.path, g.request_id, exc_info=error)
            return CorralError("internal error")
