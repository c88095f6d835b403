"""Wiring: settings to a running server. It owns the root nursery, in which the engine and the app live."""

import gc
import json
import logging
import shlex
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import fields
from functools import partial
from typing import Any

import sniffio
import trio

from corral import transport
from corral.assets import static_folder
from corral.books.ledger import Ledger
from corral.engine.contract import Engine
from corral.engine.local.backend import Backend
from corral.engine.local.engine import LocalEngine
from corral.errors import StartupError
from corral.http.app import HttpOptions, create_app
from corral.http.guard import host_name
from corral.http.pages import read_files
from corral.serving.generation import Service
from corral.settings import Settings, load
from corral.transport.limits import Limits
from corral.watching.operations import Operations

logger = logging.getLogger("corral")

Message = Any  # ASGI's typed dictionaries say less here than they cost
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

WRONG_SERVER = (
    "corral runs on trio, and this server runs asyncio. "
    "Start it with `corral serve`, or with `hypercorn app:app`."
)


class Application:
    """The ASGI app. The model is loaded at lifespan startup, and everything lives inside the lifespan.

    `open_model` blocks and returns a backend and the model's public name; it runs in a thread and may
    raise StartupError, which becomes `lifespan.startup.failed`.
    """

    def __init__(
        self,
        settings: Settings,
        open_model: Callable[[], tuple[Backend, str]],
        open_draft: Callable[[], Backend] | None = None,
    ) -> None:
        self._settings = settings
        self._open_model = open_model
        self._open_draft = open_draft
        self._app: Any = None
        self.service: Service | None = None
        """What takes requests to the engine; None outside the lifespan."""
        self.model = ""
        """The model's public name, once it is loaded."""
        self._watches_shutdown = False
        self._nursery: trio.Nursery
        self._operations: Operations

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif self._app is None:
            raise RuntimeError(f"corral needs a server with lifespan support. {WRONG_SERVER}")
        else:
            if not self._watches_shutdown:
                self._watches_shutdown = True
                self._nursery.start_soon(self._drain_at_shutdown, scope["extensions"][transport.EXTENSION])
            await self._app(scope, receive, send)

    async def _drain_at_shutdown(self, connection: dict[str, Any]) -> None:
        # The event is the server's, the same for all connections, but ASGI shows it only with a request.
        # So the first request tells us about it; a server that never had one has nothing to drain.
        await connection["terminated"].wait()
        if self.service is not None:
            operations = self._operations
            await self.service.drain(self._settings.drain_s)
            operations.close()

    async def _lifespan(self, scope: Message, receive: Receive, send: Send) -> None:
        if sniffio.current_async_library() != "trio":
            await receive()
            await send({"type": "lifespan.startup.failed", "message": WRONG_SERVER})
            return
        with ExitStack() as models:
            try:
                engine = await trio.to_thread.run_sync(self._open_engine, models)
            except StartupError as error:
                await receive()
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await self._serve(engine, scope, receive, send)

    def _open_engine(self, models: ExitStack) -> Engine:
        """Load what the settings name, to be closed by `models`; blocks. Raises StartupError."""
        backend, self.model = self._open_model()
        models.callback(backend.close)
        draft = None if self._open_draft is None else self._open_draft()
        if draft is not None:
            models.callback(draft.close)
        return LocalEngine(
            backend,
            slots=self._settings.slots,
            step_budget_ms=self._settings.step_budget_ms,
            reuses_prefixes=self._settings.prefix_reuse,
            saved_bytes=self._settings.prefix_cache_bytes,
            drafts=self._settings.prompt_lookup,
            draft_backend=draft,
            stream_interval_s=self._settings.stream_interval_ms / 1e3,
        )

    async def _serve(self, engine: Engine, scope: Message, receive: Receive, send: Send) -> None:
        settings, model = self._settings, self.model
        service = Service(
            engine,
            queue_limit=settings.queue,
            subscriber_events=settings.subscriber_events,
            subscriber_bytes=settings.subscriber_bytes,
            max_output_tokens=settings.max_output_tokens,
            request_deadline_s=settings.request_deadline_s,
            ledger=Ledger(slots=settings.slots, keeps_content=settings.status_content),
        )
        operations = Operations(service, engine, model=model, stall_s=settings.stall_s)
        files = await trio.to_thread.run_sync(read_files, static_folder())
        options = HttpOptions(
            model=model,
            created_s=int(time.time()),
            keepalive_s=settings.keepalive_s,
            body_limit_bytes=settings.body_limit_bytes,
            body_timeout_s=settings.body_timeout_s,
            api_keys=settings.api_keys,
            host_names=(*settings.allowed_hosts, host_name(settings.bind)),
            status_key=settings.status_key,
            shows_content=settings.status_content,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            self._nursery = nursery
            for task in operations.tasks:
                nursery.start_soon(task)
            self.service, self._operations = service, operations
            self._app = create_app(service, operations, files, options)
            _spare_the_collector()
            try:
                await self._app(scope, receive, send)  # returns after lifespan.shutdown
            finally:
                self.service = self._app = None
                nursery.cancel_scope.cancel()
        service.ledger.close()


def _spare_the_collector() -> None:
    """Never look again at what is there now: modules, routes, the vocabulary, all of it here to stay.

    A full collection passes over every object there is and stops all threads meanwhile, 45 ms with these.
    """
    gc.collect()
    gc.freeze()


def application() -> Application:
    """The app for an ASGI server of the user's choice, made when `app.py` is imported."""
    settings = load()
    _configure_process(settings)
    transport.install(_limits(settings))
    return _llama_application(settings)


def main(settings: Settings) -> int:
    """`corral serve`: bind, load the model, then serve until SIGTERM or SIGINT; the exit code.

    Raises StartupError or OSError before anything is served, and what ends the app's lifespan later.
    """
    _configure_process(settings)
    app = _llama_application(settings)
    trio.run(_serve, settings, app)
    return 0


async def _serve(settings: Settings, app: Application) -> None:
    stop = trio.Event()
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(_watch_signals, stop, nursery.cancel_scope)
        try:
            await transport.serve(
                app,
                bind=[settings.bind],
                limits=_limits(settings),
                certfile=str(settings.certfile) if settings.certfile else None,
                keyfile=str(settings.keyfile) if settings.keyfile else None,
                shutdown_trigger=stop.wait,
                task_status=_Greeting(settings, app),
            )
        except Exception as error:
            failure = error  # raised outside, where the nursery does not wrap it
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class _Greeting:
    """As a task status, told the addresses once the app answers at them; prints what to try first."""

    def __init__(self, settings: Settings, app: Application) -> None:
        self._settings = settings
        self._app = app

    def started(self, value: list[str] | None = None) -> None:
        assert value is not None
        with suppress(OSError):  # nobody reads it
            print(greeting(value[0], self._app.model, self._settings), flush=True)


def greeting(address: str, model: str, settings: Settings) -> str:
    """The pages' addresses, and a line of shell that streams a chat from the server at `address`."""
    # Listening on every interface is an address to listen on, and not one to talk to.
    base = address.replace("://0.0.0.0:", "://127.0.0.1:").replace("://[::]:", "://[::1]:")
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello!"}]}
    options = ["-H 'Content-Type: application/json'"]
    if settings.api_keys:
        options.append("-H 'Authorization: Bearer YOUR_KEY'")
    if settings.certfile:
        options.append("-k")
    return (
        f"corral: {model} is ready: chat at {base}/, status at {base}/status, API at {base}/v1; try\n"
        f"  curl -N {shlex.quote(base + '/v1/chat/completions')} {' '.join(options)} \\\n"
        f"    -d {shlex.quote(json.dumps(body))}"
    )


async def _watch_signals(
    stop: trio.Event, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]
) -> None:
    """The first signal asks for an orderly end, the second ends it now."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            if stop.is_set():
                scope.cancel()
            stop.set()


def _limits(settings: Settings) -> Limits:
    return Limits(**{limit.name: getattr(settings, limit.name) for limit in fields(Limits)})


def _configure_process(settings: Settings) -> None:
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
    sys.setswitchinterval(settings.switch_interval_ms / 1e3)


def _llama_application(settings: Settings) -> Application:
    def open_draft() -> Backend:
        return open_llama(settings, settings.draft_model)[0]

    open_model = partial(open_llama, settings, settings.model)
    return Application(settings, open_model, open_draft if settings.draft_model else None)


def open_llama(settings: Settings, model: str | None) -> tuple[Backend, str]:
    """Find and load a model, the default one for None; it and its public name. Raises StartupError."""
    from corral.engine.local.llama.backend import LlamaBackend, LlamaOptions
    from corral.engine.local.llama.modelfile import resolve

    model_file = resolve(model)
    options = LlamaOptions(**{own.name: getattr(settings, own.name) for own in fields(LlamaOptions)})
    return LlamaBackend(model_file.path, options), model_file.name
