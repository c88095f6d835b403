"""How Hypercorn's workers run: on trio whatever worker was asked for, and ended in good order by a signal.

Plain `hypercorn app:app` takes the asyncio worker, on which a Quart-Trio app cannot run. That worker imports
the app before it looks up what is to run its loop, so that an app can put `run_on_trio` in its place.

Hypercorn's trio worker hears of shutdown from its parent process alone: SIGTERM kills it where it stands. The
workers here take SIGTERM and SIGINT for what they are.

When an app's lifespan fails, Hypercorn's worker warns and goes on serving an app that can answer nothing.
Here that ends the server, with the app's own error.
"""

import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from hypercorn.config import Config, Sockets
from hypercorn.trio.run import worker_serve as _hypercorn_worker_serve
from hypercorn.typing import AppWrapper
from hypercorn.utils import check_multiprocess_shutdown_event

from corral.errors import StartupError

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


async def serve_without_signals(app: AppWrapper, config: Config, **options: Any) -> None:
    """Hypercorn's own `worker_serve`, except that a lifespan that fails ends it.

    Raises StartupError with the message of `lifespan.startup.failed`, or what the app's lifespan raised,
    before or after it had started. Connections are then dropped at once.
    """
    with trio.CancelScope() as scope:
        lifespan = _Lifespan(app, scope)
        await _hypercorn_worker_serve(lifespan, config, **options)
    if lifespan.failure is not None:
        raise lifespan.failure


class _Lifespan:
    """An app as Hypercorn wraps them, whose lifespan cancels `scope` when it fails, and tells us why."""

    def __init__(self, app: AppWrapper, scope: trio.CancelScope) -> None:
        self._app = app
        self._scope = scope
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

        async def send_unless_failed(message: Any) -> None:
            if message["type"] == "lifespan.startup.failed":
                self._fail(StartupError(message.get("message", "")))
                await trio.sleep_forever()  # cancelled here, inside whatever nurseries the app has opened
            await send(message)

        try:
            await self._app(scope, receive, send_unless_failed, sync_spawn, call_soon)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self._scope.cancel()


async def worker_serve(
    app: AppWrapper, config: Config, *, shutdown_trigger: Trigger | None = None, **options: Any
) -> None:
    """Hypercorn's `worker_serve`, ended by SIGTERM or SIGINT as by its trigger; for the main thread only.

    A second signal ends it at once, except SIGTERM in a worker process: its parent sends one to all workers
    as soon as the first of them has ended, however busy the others still are.
    """
    has_parent = shutdown_trigger is not None
    signalled = trio.Event()

    async def listen(task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                if signalled.is_set() and not (has_parent and number == signal.SIGTERM):
                    nursery.cancel_scope.cancel()
                signalled.set()

    async def forward(trigger: Trigger) -> None:
        await trigger()
        signalled.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(listen)
        if shutdown_trigger is not None:
            nursery.start_soon(forward, shutdown_trigger)
        await serve_without_signals(app, config, shutdown_trigger=signalled.wait, **options)
        nursery.cancel_scope.cancel()
