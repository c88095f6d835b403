"""`corral serve`: Hypercorn's trio server with our connections, limits and logging, in this process."""

import errno
import logging
import socket
import stat
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import trio
from hypercorn.config import Config, Sockets
from hypercorn.typing import ASGIFramework
from hypercorn.utils import wrap_app

from corral.transport.ending import CUT_S
from corral.transport.install import install
from corral.transport.limits import Limits
from corral.transport.worker import serve_without_signals

# How long an app may take to start (it may load a model first) and to stop after its last response.
STARTUP_S = 600.0
SHUTDOWN_S = 5.0


async def serve(  # noqa: ASYNC128  # Hypercorn calls started()
    app: ASGIFramework,
    *,
    bind: Sequence[str],
    limits: Limits,
    certfile: str | None = None,
    keyfile: str | None = None,
    shutdown_trigger: Callable[[], Awaitable[None]] | None = None,
    on_closing: Callable[[], None] = lambda: None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` until `shutdown_trigger()` returns, then drain and return.

    Binds are "HOST:PORT", "[IPv6]:PORT", "unix:PATH" or "fd://N"; port 0 takes a free one. `task_status` gets
    the addresses as URLs once the app has started and connections are accepted.

    At shutdown listening stops and idle connections close at once; running responses go on for up to
    `drain_s` and are then cut. `on_closing` is called when no connection is left and the app is told to
    stop; it may not raise. Cancelled, it drops everything at once.

    Returns at most `drain_s` + 2 s after the trigger whatever clients do, if the app stops at once when its
    lifespan is over. For an app that does not, see `Ending`.

    Raises OSError, with the address in its message, if an address cannot be listened on; StartupError if
    the app says that it cannot start; and what its lifespan raises, at once, whenever that is.
    """
    with ExitStack() as closing:
        sockets = [closing.enter_context(listen(address, limits.backlog)) for address in bind]
        config = Config()
        config.logger_class = StandardLogger  # type: ignore[assignment]
        config.bind = list(bind)
        config.certfile = certfile
        config.keyfile = keyfile
        config.backlog = limits.backlog
        config.graceful_timeout = limits.drain_s + CUT_S
        config.startup_timeout = STARTUP_S
        config.shutdown_timeout = SHUTDOWN_S
        config.include_server_header = False
        secure = config.ssl_enabled
        install(limits)
        await serve_without_signals(
            wrap_app(app, config.wsgi_max_body_size, "asgi"),
            config,
            sockets=Sockets(sockets if secure else [], [] if secure else sockets, []),
            shutdown_trigger=shutdown_trigger,
            task_status=task_status,
            on_closing=on_closing,
        )


def listen(bind: str, backlog: int) -> socket.socket:
    """Open one listening socket. Raises OSError or ValueError with the address in its message."""
    if bind.startswith("fd://"):
        return _listening(socket.socket(fileno=int(bind[5:])), None, bind, backlog)
    if bind.startswith("unix:"):
        path = Path(bind[5:])
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()  # left by a server that did not end well
        return _listening(socket.socket(socket.AF_UNIX), str(path), bind, backlog)
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal():
        raise ValueError(f"not an address to listen on: {bind!r} (HOST:PORT, unix:PATH or fd://N)")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return _listening(socket.socket(family), (host, int(port)), bind, backlog)


def _listening(sock: socket.socket, address: Any, bind: str, backlog: int) -> socket.socket:
    try:
        sock.setblocking(False)
        if address is not None:
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        what = "it is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise OSError(error.errno, f"cannot listen on {bind}: {what}") from error
    return sock


class StandardLogger:
    """Hypercorn's log, as records of the standard logger `corral.transport`; no access log."""

    def __init__(self, config: Config) -> None:
        del config
        self._logger = logging.getLogger("corral.transport")

    async def access(self, request: Any, response: Any, request_time: float) -> None:
        """Say nothing: the http layer logs requests."""

    async def log(self, level: int, message: str, *args: Any, **kwargs: Any) -> None:
        """Log at a numeric level."""
        self._logger.log(level, message, *args, **kwargs)

    async def critical(self, message: str, *args: Any, **kwargs: Any) -> None:
        """Log what ends the server."""
        self._logger.critical(message, *args, **kwargs)

    async def error(self, message: str, *args: Any, **kwargs: Any) -> None:
        """Log a failure."""
        self._logger.error(message, *args, **kwargs)

    async def warning(self, message: str, *args: Any, **kwargs: Any) -> None:
        """Log what should not be."""
        self._logger.warning(message, *args, **kwargs)

    async def info(self, message: str, *args: Any, **kwargs: Any) -> None:
        """Log what happens."""
        self._logger.info(message, *args, **kwargs)

    async def debug(self, message: str, *args: Any, **kwargs: Any) -> None:
        """Log what helps to find a mistake."""
        self._logger.debug(message, *args, **kwargs)

    async def exception(self, message: str, *args: Any, **kwargs: Any) -> None:
        """Log the exception being handled."""
        self._logger.exception(message, *args, **kwargs)
