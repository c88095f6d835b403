"""The ASGI app and its lifespan, in which everything lives: the model, the engine, the service, the pages."""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import sniffio
import trio

from corral import transport
from corral.dialects.routes import table
from corral.engine.contract import Engine
from corral.engine.local.backend import Backend
from corral.engine.upstream.engine import UpstreamEngine
from corral.errors import EngineFailed, StartupError
from corral.serving.models import Models
from corral.serving.service import Service
from corral.settings import Settings
from corral.wiring import (
    OpenModel,
    Routes,
    Running,
    open_draft,
    open_engine,
    open_llama,
    open_upstreams,
    start,
    upstreams_of,
)

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
    """

    def __init__(
        self,
        settings: Settings,
        open_model: OpenModel,
        open_draft: Callable[[], Backend] | None = None,
        routes: Routes = table,
    ) -> None:
        self._settings = settings
        self._open_model = open_model
        self._open_draft = open_draft
        self._routes = routes
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
        """Follow settings that have changed: of a model that is loaded here, none can."""

    async def _open(self, models: ExitStack) -> dict[str, Engine]:
        """The engines of the models by their public names; `models` closes what they hold. A checkpoint."""
        engine, model = await trio.to_thread.run_sync(
            open_engine, self._settings, self._open_model, self._open_draft, models
        )
        return {model: engine}

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
                engines = await self._open(models)
            except StartupError as error:
                await receive()
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            async with trio.open_nursery() as nursery:
                try:
                    running = await start(self._settings, engines, nursery, self._routes)
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


class UpstreamApplication(Application):
    """The app over servers elsewhere. Nothing is loaded."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, _no_model)
        self._engine: UpstreamEngine | None = None

    async def _open(self, models: ExitStack) -> dict[str, Engine]:
        self._engine = await open_upstreams(self._settings)
        return {self._engine.model: self._engine}

    def reconfigure(self, settings: Settings) -> None:
        """Have the upstreams of these settings from now on; no stream is dropped.

        Raises StartupError for what is no address or where none is left, EngineFailed before the lifespan.
        """
        upstreams = upstreams_of(settings)
        if not upstreams:
            raise StartupError("no upstream is left")
        if self._engine is None:
            raise EngineFailed("the engine is not running")
        self._engine.reconfigure(upstreams)


def _no_model() -> tuple[Backend, str]:
    raise StartupError("the model is elsewhere")


def application(settings: Settings) -> Application:
    """The app over what the settings name: upstreams, or a model in this process."""
    return UpstreamApplication(settings) if settings.has_upstreams else llama_application(settings)


def llama_application(settings: Settings) -> Application:
    """The app over llama.cpp, with the model that the settings name."""
    return Application(
        settings,
        lambda: open_llama(settings, settings.model),
        None if settings.draft_model is None else lambda: open_draft(settings),
    )
