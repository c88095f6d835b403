"""Putting ours in place of Hypercorn's: the three names that are all we change of it."""

from functools import partial

import hypercorn.asyncio.run
import hypercorn.trio.run

from corral.transport.census import Census
from corral.transport.connection import Connection
from corral.transport.limits import Limits
from corral.transport.worker import run_on_trio, worker_serve


def install(limits: Limits = Limits()) -> None:  # noqa: B008  # frozen
    """Make every Hypercorn server that starts from now on in this process serve through `Connection`.

    Call it when the app is imported: Hypercorn looks these names up when it starts to serve, after that.
    Idempotent; the limits of the last call count. Servers that run already keep theirs.
    """
    hypercorn.trio.run.TCPServer = partial(Connection, limits, Census(limits))  # type: ignore[attr-defined,assignment]
    hypercorn.trio.run.worker_serve = worker_serve
    hypercorn.asyncio.run._run = run_on_trio  # type: ignore[assignment]
