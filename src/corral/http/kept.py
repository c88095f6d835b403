"""The routes below which a client finds the answers again that it was given."""

from quart import Quart, Response, g, request

from corral.dialects.routes import KeptRoute
from corral.http.marks import speaks
from corral.http.replies import JSON
from corral.serving.models import Models


def add_kept(app: Quart, route: KeptRoute, models: Models) -> None:
    """Serve what is kept under one route of the table."""
    dialect = route.dialect

    @app.get(f"{route.path}/<id>", endpoint=f"kept {route.path}")
    @speaks(dialect)
    async def kept(id: str) -> Response:
        """An answer that is kept, or still running."""
        return _json(dialect.kept(id, g.client, request.args, models.is_running))

    @app.delete(f"{route.path}/<id>", endpoint=f"forget {route.path}")
    @speaks(dialect)
    async def forget(id: str) -> Response:
        """Forgets an answer that is kept."""
        return _json(dialect.forgotten(id, g.client))

    @app.get(f"{route.path}/<id>/input_items", endpoint=f"inputs {route.path}")
    @speaks(dialect)
    async def inputs(id: str) -> Response:
        """What was asked for an answer that is kept."""
        return _json(dialect.inputs(id, g.client, request.args))

    @app.post(f"{route.path}/<id>/cancel", endpoint=f"cancel {route.path}")
    @speaks(dialect)
    async def cancel(id: str) -> Response:
        """Ends an answer that is still running, for the client that asked for it."""
        return _json(dialect.cancelled(id, g.client, models.cancel))


def _json(answer: bytes) -> Response:
    return Response(answer, content_type=JSON)
