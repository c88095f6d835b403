"""Web apps of other origins that may use the API from a visitor's browser (CORS, in the Fetch standard).

Only origins that are listed, only what clients may use, never with a cookie: whoever runs the server names
the apps, and an app that needs a key sends it like every other client. What is an operator's stays with the
pages of this server.
"""

from collections.abc import Iterable
from typing import Final

from quart import Request, Response

MAX_AGE_S: Final = 600
"""How long a browser may remember what it was allowed, before it asks again."""
EXPOSED: Final = "X-Request-Id, Request-Id, Retry-After"
"""Headers of answers that an app may read, beside the few that all may."""


class Cors:
    """Which requests come from listed origins, and what a browser is told of them."""

    def __init__(self, origins: Iterable[str]) -> None:
        """`origins` in lower case; "*" is every origin."""
        self._origins = frozenset(origins)

    def __bool__(self) -> bool:
        return bool(self._origins)

    def lets_in(self, request: Request) -> bool:
        """Whether a request comes from a page of one listed origin."""
        origins = request.headers.getlist("Origin")
        return len(origins) == 1 and ("*" in self._origins or origins[0].lower() in self._origins)

    @staticmethod
    def is_preflight(request: Request) -> bool:
        """Whether a browser asks only what a page may do: it does so without the page's key."""
        return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers

    @staticmethod
    def preflight(request: Request, methods: Iterable[str]) -> Response:
        """The answer to a preflight of a listed origin. Every header may be sent: none does harm here."""
        headers = {
            "Access-Control-Allow-Methods": ", ".join(sorted(methods)),
            "Access-Control-Max-Age": str(MAX_AGE_S),
        }
        if asked := request.headers.get("Access-Control-Request-Headers"):
            headers["Access-Control-Allow-Headers"] = asked
        return Response(b"", status=204, headers=headers)

    @staticmethod
    def admit(request: Request, response: Response) -> None:
        """Let a listed origin's page read a response."""
        response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
        response.headers["Access-Control-Expose-Headers"] = EXPOSED
