"""`app`, for `hypercorn app:app`: the same as `corral.asgi`, under the name that is typed sooner."""

from corral.asgi import app

__all__ = ["app"]
