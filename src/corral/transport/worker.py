"""How Hypercorn's workers run: on trio whatever worker was asked for, and ended in good order by a signal.

Plain `hypercorn app:app` takes the asyncio worker, on which a Quart-Trio app cannot run. That worker imports
the app before it looks up what is to run its loop, so that an app can put `run_on_trio` in its place.

Hypercorn's trio worker hears of shutdown from its parent process alone: SIGTERM kills it where it stands. The
workers here take SIGTERM and SIGINT for what they are.

When an app's lifespan fails, Hypercorn's worker warns and goes on serving an app that can answer nothing.
Here that ends the server, with the app's own error.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio
from hypercorn.config import Config, Sockets
from hypercorn.trio.run import worker_serve as _hypercorn_worker_serve
from hypercorn.typing import AppWrapper
from hypercorn.utils import check_multiprocess_shutdown_event

from corral.errors import StartupError
from corral.transport.ending import Ending

Trigger = Callable[..., Awaitable[None]]


def run_on_trio(
    main: "partial[Any]", *, shutdown_trigger: Any = None, debug: bool = False, loop_factory: Any = None
) -> None:
    """Stand in for `hypercorn.asyncio.run._run`: serve what the asyncio worker was about to, on trio.

    `main` is Hypercorn's asyncio `worker_serve` with its app, config and sockets bound.
    """
    del debug, loop_factory
    app, config = main.args
    sockets: Sockets | None = main.keywords["sockets"]
    if sockets is not None:
        for sock in (*sockets.secure_sockets, *sockets.insecure_sockets):
            sock.listen(config.backlog)
    if shutdown_trigger is not None:  # the parent's event, to be polled with asyncio's sleep
        event = shutdown_trigger.args[0]
        shutdown_trigger = partial(check_multiprocess_shutdown_event, event, trio.sleep)
    trio.run(partial(worker_serve, app, config, sockets=sockets, shutdown_trigger=shutdown_trigger))


async def serve_without_signals(
    app: AppWrapper, config: Config, *, on_closing: Callable[[], None] = lambda: None, **options: Any
) -> None:
    """Hypercorn's own `worker_serve`, except that a lifespan that fails ends it.

    `on_closing` is called when the app is told to stop: no connection is left then. Raises StartupError with
    the message of `lifespan.startup.failed`, or what the app's lifespan raised, before or after it had
    started. Connections are then dropped at once.
    """
    with trio.CancelScope() as scope:
        lifespan = _Lifespan(app, scope, on_closing)
        await _hypercorn_worker_serve(lifespan, config, **options)
    if lifespan.failure is not None:
        raise lifespan.failure


class _Lifespan:
    """An app as Hypercorn wraps them, whose lifespan cancels `scope` when it fails, and tells us why."""

    def __init__(self, app: AppWrapper, scope: trio.CancelScope, on_closing: Callable[[], None]) -> None:
        self._app = app
        self._scope = scope
        self._on_closing = on_closing
        self.failure: Exception | None = None

    async def __call__(
        self,
        scope: Any,
        receive: Any,
        send: Any,
        sync_spawn: Callable[..., Any],
        call_soon: Callable[..., Any],
    ) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send, sync_spawn, call_soon)
            return

        async def receive_and_tell() -> Any:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                self._on_closing()
            return message

        async def send_unless_failed(message: Any) -> None:
            if message["type"] == "lifespan.startup.failed":
                self._fail(StartupError(message.get("message", "")))
                await trio.sleep_forever()  # cancelled here, inside whatever nurseries the app has opened
            await send(message)

        try:
            await self._app(scope, receive_and_tell, send_unless_failed, sync_spawn, call_soon)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self._scope.cancel()


async def worker_serve(
    app: AppWrapper, config: Config, *, shutdown_trigger: Trigger | None = None, **options: Any
) -> None:
    """Hypercorn's `worker_serve`, ended by signals as `Ending` says, or by its trigger.

    For the main thread only.
    """
    ending = Ending(config.graceful_timeout, has_parent=shutdown_trigger is not None)

    async def forward(trigger: Trigger) -> None:
        await trigger()
        ending.ask_nowait()

    with ending.by_signals():
        async with trio.open_nursery() as nursery:
            if shutdown_trigger is not None:
                nursery.start_soon(forward, shutdown_trigger)
            await serve_without_signals(
                app,
                config,
                shutdown_trigger=ending.asked.wait,
                on_closing=ending.closing_nowait,
                task_status=_Started(partial(ending.serving_nowait, nursery.cancel_scope)),
                **options,
            )
            nursery.cancel_scope.cancel()


@dataclass(frozen=True, slots=True)
class _Started:
    """As a task status: calls back when the server serves."""

    then: Callable[[], None]

    def started(self, value: object = None) -> None:
        self.then()
