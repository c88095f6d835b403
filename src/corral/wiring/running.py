"""All that runs between startup and shutdown, on the engines of the models there are."""

import gc
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from corral.assets import static_folder
from corral.books.ledger import Ledger
from corral.dialects.routes import AnyRoute, DialectOptions
from corral.engine.contract import Engine
from corral.engine.shelf.engine import ShelvedEngine
from corral.errors import CorralError, StartupError
from corral.http.app import create_app
from corral.http.options import HttpOptions
from corral.http.pages import read_files
from corral.printable import one_line
from corral.serving.models import Model, Models
from corral.serving.service import Service, ServiceOptions
from corral.settings import Settings
from corral.watching.watch import Watching, attach
from corral.wiring.options import pick

logger = logging.getLogger("corral")

Routes = Callable[[DialectOptions], Sequence[AnyRoute]]
"""Makes the table of routes of one server."""


@dataclass(slots=True, eq=False)
class Running:
    """What lives between startup and shutdown. Its tasks are in `nursery`, which belongs to the lifespan."""

    models: Models
    watching: Watching
    app: Any
    """The Quart app, as an ASGI app."""
    nursery: trio.Nursery
    _watches_shutdown: bool = False

    def watch_shutdown_nowait(self, terminated: trio.Event, drain_s: float) -> None:
        """Drain for `drain_s` when `terminated` is set; harmless if it is watched already.

        Both are the server's, the same for all connections, but ASGI shows them only with a request. So the
        first request tells us about them; a server that never had one has nothing to drain.
        """
        if not self._watches_shutdown:
            self._watches_shutdown = True
            self.nursery.start_soon(self._drain_at_shutdown, terminated, drain_s)

    async def _drain_at_shutdown(self, terminated: trio.Event, drain_s: float) -> None:
        await terminated.wait()
        if streams := len(self.models.ledger.live):
            logger.info(
                "stopping: %s may go on for %.0f s; Ctrl-C again ends what is left at once",
                "1 request" if streams == 1 else f"{streams} requests",
                drain_s,
            )
        await self.models.drain(drain_s)
        self.watching.close()


@dataclass(frozen=True, slots=True)
class Offer:
    """A model to be served: its public name, its engine, and how requests to it are served."""

    name: str
    engine: Engine
    options: ServiceOptions
    loads_at_start: bool = False


async def start(
    settings: Settings, offers: Sequence[Offer], nursery: trio.Nursery, routes: Routes
) -> Running:
    """Start the engines of models, and all that stands on them, in `nursery`. Raises StartupError."""
    ledger = Ledger(keeps_content=settings.status_content)
    created_s = int(time.time())
    models = Models(
        [Model(offer.name, created_s, Service(offer.engine, offer.options, ledger)) for offer in offers]
    )
    watching = attach(models, stall_s=settings.stall_s, trace_dir=settings.trace_dir)
    files = await trio.to_thread.run_sync(read_files, static_folder())
    app = create_app(
        models,
        watching,
        files,
        pick(HttpOptions, settings),
        routes(pick(DialectOptions, settings)),
    )
    for offer in offers:
        await nursery.start(offer.engine.run)
        await nursery.start(models.named(offer.name).service.run)
        if isinstance(offer.engine, ShelvedEngine):
            offer.engine.is_in_use = models.named(offer.name).service.has_users
    for task in watching.tasks:
        nursery.start_soon(task)
    _spare_the_collector()
    for offer in offers:  # after that: what comes and goes is to be collected
        if offer.loads_at_start:
            await _load_at_start(offer)
    return Running(models, watching, app, nursery)


async def _load_at_start(offer: Offer) -> None:
    try:
        await offer.engine.load()
    except CorralError as error:
        residence = offer.engine.residence
        reason = (residence.reason if residence is not None else "") or error.message
        raise StartupError(one_line(f"{offer.name} cannot be loaded: {reason}")) from None


def _spare_the_collector() -> None:
    """Never look again at what is there now: modules, routes, the vocabulary, all of it here to stay.

    A full collection passes over every object there is and stops all threads meanwhile, 45 ms with these.
    """
    gc.collect()
    gc.freeze()
