"""`corral serve`: from the first signal handler to the exit code, and what is printed once it is ready."""

import errno
import ipaddress
import json
import logging
import shlex
import signal
from collections.abc import Callable
from contextlib import suppress

import trio

from corral import transport
from corral.application import Application, application
from corral.errors import EngineFailed, StartupError
from corral.settings import Settings, SettingsError
from corral.wiring.options import limits
from corral.wiring.process import configure_process

logger = logging.getLogger("corral")

HELLO = {"role": "user", "content": "Hello!"}


Reload = Callable[[], Settings]
"""Reads the settings again. Raises SettingsError."""


def main(settings: Settings, app: Application | None = None, reload: Reload | None = None) -> int:
    """Bind, load the model, then serve until SIGTERM or SIGINT; the exit code.

    `app` is the one over what the settings name unless another is given. Raises StartupError or OSError
    before anything is served, and what ends the app's lifespan later. With `reload` upstreams follow the
    settings on SIGHUP.
    """
    configure_process(settings)
    warn_of_strangers(settings)
    try:
        trio.run(_serve, settings, application(settings) if app is None else app, reload)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        hint = "choose another with --bind, or with make serve BIND=127.0.0.1:8001"
        raise StartupError(f"{error.strerror}; {hint}") from None
    return 0


def warn_of_strangers(settings: Settings) -> None:
    """Say in the log that others than this machine's own may come in without a key, where that is so."""
    host = settings.bind.rpartition(":")[0].strip("[]")
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"  # of other names nothing is known
    if not (settings.api_keys or is_loopback):
        logger.warning(
            "listening on %s without an API key: whoever reaches it may use the model; see --api-keys",
            settings.bind,
        )


async def _follow_settings(app: Application, reload: Reload) -> None:
    """Have the upstreams that the settings name now, at each SIGHUP, until cancelled."""
    with trio.open_signal_receiver(signal.SIGHUP) as hangups:
        async for _ in hangups:
            try:
                app.reconfigure(await trio.to_thread.run_sync(reload))
            except (SettingsError, StartupError, EngineFailed) as error:
                logger.error("the settings are left as they were: %s", error)


async def _serve(settings: Settings, app: Application, reload: Reload | None = None) -> None:
    ending = transport.Ending(settings.drain_s)

    def on_serving() -> None:
        ending.serving_nowait(scope)
        if reload is not None and settings.has_upstreams and hasattr(signal, "SIGHUP"):
            app.running.nursery.start_soon(_follow_settings, app, reload)

    with ending.by_signals(), trio.CancelScope() as scope:
        await transport.serve(
            app,
            bind=[settings.bind],
            limits=limits(settings),
            certfile=str(settings.certfile) if settings.certfile else None,
            keyfile=str(settings.keyfile) if settings.keyfile else None,
            shutdown_trigger=ending.asked.wait,
            on_closing=ending.closing_nowait,
            task_status=_Greeting(settings, app, on_serving),
        )


class _Greeting:
    """As a task status, told the addresses once the app answers at them; prints what to try first."""

    def __init__(self, settings: Settings, app: Application, on_serving: Callable[[], None]) -> None:
        self._settings = settings
        self._app = app
        self._on_serving = on_serving

    def started(self, value: list[str] | None = None) -> None:
        assert value is not None
        self._on_serving()
        with suppress(OSError):  # nobody reads it
            embedding = self._app.service.embedding
            reads_only = embedding is not None and embedding.reads_only
            print(
                greeting(
                    value[0],
                    self._app.models.first.name,
                    self._settings,
                    reads_only=reads_only,
                    names=self._app.models.name,
                ),
                flush=True,
            )


def greeting(
    address: str, model: str, settings: Settings, *, reads_only: bool = False, names: str | None = None
) -> str:
    """The pages' addresses, and a line of shell that streams a chat from the server at `address`.

    Of a model that `reads_only` it asks for a vector. `names` are those of all models.
    """
    # Listening on every interface is an address to listen on, and not one to talk to.
    base = address.replace("://0.0.0.0:", "://127.0.0.1:").replace("://[::]:", "://[::1]:")
    path, body = "/v1/chat/completions", {"model": model, "stream": True, "messages": [HELLO]}
    if reads_only:
        path, body = "/v1/embeddings", {"model": model, "input": "Hello!"}
    pages = f"status at {base}/status" if reads_only else f"chat at {base}/, status at {base}/status"
    options = ["-H 'Content-Type: application/json'"]
    if settings.api_keys:
        options.append("-H 'Authorization: Bearer YOUR_KEY'")
    if settings.certfile:
        options.append("-k")
    named = f"{model} is" if names in (None, model) else f"{names} are"
    key = "with an API key" if settings.api_keys else "no API key needed"
    return (
        f"corral: {named} ready: {pages}, API at {base}/v1 ({key}); try\n"
        f"  curl -N {shlex.quote(base + path)} {' '.join(options)} \\\n"
        f"    -d {shlex.quote(json.dumps(body))}"
    )
