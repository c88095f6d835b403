"""The operator's routes: what runs, live and in numbers, and the means to stop it."""

from urllib.parse import parse_qs

import msgspec
import trio
from quart import Quart, Response, request

from corral.errors import InvalidRequest, NotFound, Unauthorized
from corral.http.body import Bodies, read_body
from corral.http.connection import enter_for_request, peer_of
from corral.http.marks import Access, access
from corral.http.operator import COOKIE, OperatorCheck
from corral.http.replies import json_reply
from corral.http.stream import EVENT_STREAM, HEADERS, event_stream
from corral.serving.models import Models
from corral.watching.broker import KEEPALIVE, Viewer
from corral.watching.watch import Watching

NO_STORE = {"Cache-Control": "no-store"}
KEY_BODY_BYTES = 4096
COOKIE_AGE_S = 30 * 86_400


class Rights(msgspec.Struct, frozen=True):
    """What one viewer may do and see."""

    may_stop: bool
    sees_content: bool


class ViewerSource:
    """What a viewer's mailbox brings, until the server shuts down; before that, its rights."""

    __slots__ = ("_first", "_viewer")

    def __init__(self, viewer: Viewer, rights: Rights) -> None:
        self._viewer = viewer
        # Without an id: it is the viewer's own, and nothing that could be missed.
        self._first = b"event: rights\ndata: %b\n\n" % msgspec.json.encode(rights)

    async def chunk(self) -> bytes:
        try:
            chunk = await self._viewer.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        first, self._first = self._first, b""
        return first + chunk

    def keepalive(self) -> bytes:
        return KEEPALIVE


def add_status(
    app: Quart,
    models: Models,
    watching: Watching,
    operators: OperatorCheck,
    bodies: Bodies,
    *,
    keepalive_s: float,
) -> None:
    """The routes, guarded by `operators`."""
    feed = watching.feed

    @app.get("/status/json")
    @access(Access.OPERATOR)
    async def status_json() -> Response:
        """Everything /status shows, once."""
        snapshot = feed.snapshot(with_content=operators.sees_content(request))
        response = json_reply(snapshot)
        response.headers.update(NO_STORE)
        return response

    @app.get("/status/events")
    @access(Access.OPERATOR)
    async def status_events() -> Response:
        """Everything /status shows, live, as server-sent events."""
        if request.method == "HEAD":
            return Response(b"", content_type=EVENT_STREAM, headers=HEADERS)
        rights = Rights(operators.may_stop(request), operators.sees_content(request))
        viewer = enter_for_request(
            feed.broker.subscribe(
                sees_content=rights.sees_content,
                last_event_id=request.headers.get("Last-Event-ID"),
                on_evicted=peer_of(request).abort,
            )
        )
        return event_stream(ViewerSource(viewer, rights), keepalive_s=keepalive_s)

    @app.post("/status/key")
    @access(Access.PUBLIC)
    async def status_key() -> Response:
        """Takes the status key from the page's form and keeps a digest of it in a cookie."""
        if not operators.needs_key:
            raise NotFound("this server has no status key")
        with bodies.until_closed():
            body = await read_body(request, limit_bytes=KEY_BODY_BYTES, timeout_s=10.0)
        given = parse_qs(body.decode("utf-8", "replace")).get("key", [""])[0].strip()
        if not given:
            raise InvalidRequest("the key is missing", param="key")
        cookie = operators.cookie(given)
        if cookie is None:
            raise Unauthorized("this is not the status key")
        response = Response(b"", status=204, headers=NO_STORE)
        response.set_cookie(
            COOKIE,
            cookie,
            max_age=COOKIE_AGE_S,
            httponly=True,
            samesite="Strict",
            secure=request.scheme == "https",
        )
        return response

    @app.delete("/v1/requests/<id>")
    @access(Access.OPERATOR)
    async def stop_request(id: str) -> Response:
        """Stops a request; its client is told that an operator did."""
        operators.check_stop(request)
        if not models.stop(id):
            raise NotFound(f"no request {id!r} is running or waiting")
        return json_reply({"id": id, "stopped": True})

    @app.delete("/v1/requests/<id>/thinking")
    @access(Access.OPERATOR)
    async def end_thought(id: str) -> Response:
        """Ends the thought of a request, if it is thinking: it answers now."""
        operators.check_stop(request)
        if not models.end_thought(id):
            raise NotFound(f"no request {id!r} is running or waiting")
        return json_reply({"id": id, "answers": True})

    @app.post("/v1/replicas/<path:name>/drain")
    @access(Access.OPERATOR)
    async def drain_replica(name: str) -> Response:
        """Gives an upstream nothing more; what it has goes on."""
        operators.check_stop(request)
        return _draining(name, True)

    @app.post("/v1/replicas/<path:name>/resume")
    @access(Access.OPERATOR)
    async def resume_replica(name: str) -> Response:
        """Gives an upstream requests again."""
        operators.check_stop(request)
        return _draining(name, False)

    def _draining(name: str, is_draining: bool) -> Response:
        if not models.set_draining(name, is_draining):
            raise NotFound(f"there is no replica {name!r}")
        return json_reply({"replica": name, "draining": is_draining})

    @app.get("/metrics")
    @access(Access.OPERATOR)
    async def metrics() -> Response:
        """Counters, gauges and distributions for Prometheus."""
        data, content_type = watching.metrics.expose(request.headers.get("Accept", ""))
        return Response(data, content_type=content_type, headers=NO_STORE)
