"""A request's scope, driven at the ASGI boundary with an app of its own."""

import trio
import trio.testing
from quart_trio import QuartTrio
from tests.harness import Exchange

from corral.http.connection import CorralRequest, ScopedHTTPConnection


async def test_a_client_that_leaves_in_the_moment_its_response_is_ready_is_no_failure() -> None:
    app = QuartTrio(__name__)
    app.asgi_http_class = ScopedHTTPConnection
    app.request_class = CorralRequest
    has_begun, may_end = trio.Event(), trio.Event()

    @app.get("/")
    async def view() -> str:
        has_begun.set()
        await may_end.wait()
        return "too late"

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [],
    }
    for _ in range(20):  # which of the two trio runs first is chance
        has_begun, may_end = trio.Event(), trio.Event()
        exchange = Exchange(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.run, app, scope, [])
            await has_begun.wait()
            await trio.testing.wait_all_tasks_blocked()
            may_end.set()
            exchange.leave()
