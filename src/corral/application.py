"""The ASGI app and its lifespan, in which everything lives: models, engines, services, the pages."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import Any

import sniffio
import trio

from corral import transport
from corral.dialects.routes import table
from corral.engine.local.backend import Backend
from corral.engine.upstream.engine import UpstreamEngine
from corral.errors import StartupError
from corral.serving.models import Models
from corral.serving.service import Service, ServiceOptions
from corral.settings import Settings
from corral.wiring.fleets import fleets_of, open_fleets
from corral.wiring.local import OpenModel, open_draft, open_engine, open_llama
from corral.wiring.options import pick
from corral.wiring.running import Offer, Routes, Running, start
from corral.wiring.shelf import Shelved, find_models, shelf_bytes, shelve

Message = Any  # ASGI's typed dictionaries say less here than they cost
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

WRONG_SERVER = (
    "corral runs on trio, and this server runs asyncio. "
    "Start it with `corral serve`, or with `hypercorn corral.asgi:app`."
)


class Application:
    """The ASGI app. The model is loaded at lifespan startup.

    `open_model` blocks and returns a backend and the model's public name; it runs in a thread and may
    raise StartupError, which becomes `lifespan.startup.failed`. So does `open_draft`, for the draft model.
    `find_models` blocks too, and names models that are loaded when they are wanted. Upstreams are those of
    the settings.
    """

    def __init__(
        self,
        settings: Settings,
        open_model: OpenModel | None,
        open_draft: Callable[[], Backend] | None = None,
        routes: Routes = table,
        find_models: Callable[[], Sequence[Shelved]] = tuple,
    ) -> None:
        self._settings = settings
        self._open_model = open_model
        self._open_draft = open_draft
        self._routes = routes
        self._find_models = find_models
        self._fleets: dict[str, UpstreamEngine] = {}
        """By the names that the settings have for their models."""
        self._running: Running | None = None

    @property
    def running(self) -> Running:
        """All that lives inside the lifespan. Raises RuntimeError outside it."""
        if self._running is None:
            raise RuntimeError(f"corral needs a server with lifespan support. {WRONG_SERVER}")
        return self._running

    @property
    def service(self) -> Service:
        """What takes requests to the first model. Raises RuntimeError outside the lifespan."""
        return self.models.first.service

    @property
    def models(self) -> Models:
        """All models. Raises RuntimeError outside the lifespan."""
        return self.running.models

    def reconfigure(self, settings: Settings) -> None:
        """Have the upstreams of these settings from now on; no stream is dropped. Models stay as they are.

        Raises StartupError for what is no address, where a model would come or go, or where none of its
        upstreams is left; RuntimeError or EngineFailed outside the lifespan.
        """
        fleets = fleets_of(settings)
        if len(fleets) == len(self._fleets) == 1 and not self.models.are_several:
            # Then it does not matter what the model is called.
            fleets = dict(zip(self._fleets, fleets.values(), strict=True))
        if not fleets:
            raise StartupError("no upstream is left")
        for name in fleets.keys() - self._fleets.keys():
            raise StartupError(f"there is no model {name!r} yet: models come with a restart")
        for name in self._fleets.keys() - fleets.keys():
            raise StartupError(f"no upstream of {name!r} is left: models go with a restart")
        for name, engine in self._fleets.items():
            engine.reconfigure(fleets[name])

    async def _open(self, models: ExitStack) -> list[Offer]:
        """All models; `models` closes what is loaded already. A checkpoint."""
        options = pick(ServiceOptions, self._settings)
        offers: list[Offer] = []
        if self._open_model is not None:
            engine, model = await trio.to_thread.run_sync(
                open_engine, self._settings, self._open_model, self._open_draft, models
            )
            offers.append(Offer(model, engine, options))
        found = await trio.to_thread.run_sync(self._find_models)
        offers += shelve(found, shelf_bytes(self._settings))
        self._fleets = await open_fleets(self._settings)
        offers += [Offer(name or fleet.model, fleet, options) for name, fleet in self._fleets.items()]
        names = {offer.name for offer in offers}
        if len(names) < len(offers):
            raise StartupError("two models have the same name: say another for one of them in the file")
        return offers

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        running = self.running
        server = scope["extensions"][transport.EXTENSION]
        running.watch_shutdown_nowait(server["terminated"], server["drain_s"])
        await running.app(scope, receive, send)

    async def _lifespan(self, scope: Message, receive: Receive, send: Send) -> None:
        if sniffio.current_async_library() != "trio":
            await receive()
            await send({"type": "lifespan.startup.failed", "message": WRONG_SERVER})
            return
        with ExitStack() as models:
            try:
                offers = await self._open(models)
            except StartupError as error:
                await receive()
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            async with trio.open_nursery() as nursery:
                try:
                    running = await start(self._settings, offers, nursery, self._routes)
                except StartupError as error:
                    await receive()
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                else:
                    self._running = running
                    try:
                        await running.app(scope, receive, send)  # returns after lifespan.shutdown
                    finally:
                        self._running = None
                        running.models.ledger.close()
                        running.watching.end()
                nursery.cancel_scope.cancel()


def application(settings: Settings) -> Application:
    """The app over what the settings name: models in this process, upstreams, or both."""
    if settings.models:
        return Application(settings, None, find_models=lambda: find_models(settings))
    if settings.has_upstreams and not settings.has_locals:
        return Application(settings, None)
    return llama_application(settings)


def llama_application(settings: Settings) -> Application:
    """The app over llama.cpp, with the model that the settings name, and over their upstreams."""
    return Application(
        settings,
        lambda: open_llama(settings, settings.model),
        None if settings.draft_model is None else lambda: open_draft(settings),
    )
