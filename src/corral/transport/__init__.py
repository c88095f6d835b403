"""Hypercorn's connections made evictable and bounded. The only importer of Hypercorn's internals.

`serve()` runs an app; `install()` makes `hypercorn app:app` serve it with the same connections. What an app
may rely on, and what a connection may cost, is in docs/transport.md.
"""

from corral.transport.ending import Ending
from corral.transport.exchange import EXTENSION, ClientDisconnectedError
from corral.transport.install import install
from corral.transport.limits import Limits
from corral.transport.serve import serve

__all__ = ["EXTENSION", "ClientDisconnectedError", "Ending", "Limits", "install", "serve"]
