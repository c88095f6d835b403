"""One connection, from accept to close: read, write, time out, let go.

Hypercorn calls `Connection(app, config, context, state, stream)` for each stream it accepts and awaits the
result; its HTTP/1.1 and HTTP/2 protocols (http1.py, http2.py) do the parsing. What happens here:

- One task reads. It waits for nothing but the socket, so whatever the client does to its end is seen at once:
  the protocols neither park nor block (see there), and when they want no more bytes the socket is still
  watched. A second task keeps the time and hears of shutdown. The apps run in the same nursery.
- A write is shielded as a whole (lock, bytes), because bytes that h11 or h2 has let go of must reach the wire
  in order, or the connection is corrupt: the task that writes is the app's, and a framework cancels it also
  while a response is ending. Each write is bounded in time instead, and `abort()` unblocks it.
- The connection ends in one place, the end of `_read`: everything else asks for that.
"""

import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H2ProtocolAssumedError
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState, HTTPScope, LifespanState
from hypercorn.utils import parse_socket_addr

from corral.transport.allowance import Allowance
from corral.transport.answers import too_many_connections
from corral.transport.census import Census
from corral.transport.ending import CUT_S
from corral.transport.exchange import EXTENSION, Exchange, Send
from corral.transport.http1 import HTTP1, Cut
from corral.transport.http2 import HTTP2
from corral.transport.limits import Limits
from corral.transport.protocol import HTTPProtocol, Put, Surroundings
from corral.transport.wire import Wire

logger = logging.getLogger("corral.transport")

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

READ_BYTES = 65536

# A write that has to wait goes in pieces, and a piece that moves renews the patience: the slowest reader that
# is not taken for stalled takes one piece per send_timeout_s. Also the largest TLS record.
PIECE_BYTES = 16384

# How much of the event loop's time one connection's parsing may take: about so much between two pauses, and
# such a share for long. Requests and bodies come nowhere near it; frames and chunks with nothing in them do.
PARSING_AT_ONCE_S = 0.001
PARSING_SHARE = 0.25

# After an early answer the client may still be sending. Closing then would reset it, and the reset would
# overtake the answer: read on and throw away, this long at most.
LINGER_S = 2.0
SHUTDOWN_LINGER_S = 0.5

# How long saying goodbye may take (TLS close_notify, a 503 to a client too many).
FAREWELL_S = 1.0


class Connection:
    """One client. Awaiting it serves the client to the end; raises nothing but cancellation."""

    def __init__(
        self,
        limits: Limits,
        census: Census,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        state: LifespanState,
        stream: Stream,
    ) -> None:
        self._limits = limits
        self._census = census
        self._app = app
        self._config = config
        self._context = context
        self._state = state
        self._stream = stream
        transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        self._socket = transport.socket
        self._wire = Wire(transport, limits.notsent_lowat_bytes)
        self._cleartext = not isinstance(stream, trio.SSLStream)
        self._protocol: HTTPProtocol
        self._http2: Callable[[], HTTP2]
        self._nursery: trio.Nursery
        self._reading = trio.CancelScope()  # cancelled: stop reading, close
        self._idle = trio.CancelScope()  # its deadline: when a connection that is not serving is closed
        self._ending: trio.CancelScope | None = None  # once it is to be closed
        self._is_over = False
        self._send_lock = trio.Lock()
        self._writes: set[trio.CancelScope] = set()
        self._patience_s = limits.send_timeout_s
        self._said_ahead = b""
        self._written_at = trio.current_time()
        self._head_begun = False
        self._fin_seen = False
        self._closing = False  # no more requests, no more bytes but those under way
        self._closed = False
        self._stalled = False  # it was reset because it took nothing
        self._parsing = Allowance(PARSING_AT_ONCE_S, PARSING_SHARE)

    def __await__(self) -> Generator[Any, None, None]:
        return self.run().__await__()

    async def run(self) -> None:
        """Serve the connection to its end. What goes wrong ends it, is logged once, and goes no further."""
        try:
            try:
                client = parse_socket_addr(self._socket.family, self._socket.getpeername())
                server = parse_socket_addr(self._socket.family, self._socket.getsockname())
            except OSError:
                return  # gone before we looked
            with self._census.seat(client[0] if client else None) as admitted:
                if not admitted:
                    await self._refuse()
                elif await self._shake_hands():
                    await self._serve(client, server)
        except* Exception as errors:
            logger.error("A connection failed", exc_info=errors)
            self.abort()

    def abort(self) -> None:
        """Drop the client now: RST, and whoever waits for its socket wakes. Synchronous and idempotent."""
        if not self._closed:
            self._closed = self._closing = True
            self._wire.reset()
            self._reading.cancel()

    # From accept to close

    async def _shake_hands(self) -> bool:
        if not isinstance(self._stream, trio.SSLStream):
            return True
        is_done = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_at_shutdown, nursery.cancel_scope)
            nursery.cancel_scope.deadline = trio.current_time() + self._limits.tls_handshake_timeout_s
            with suppress(trio.BrokenResourceError):
                await self._stream.do_handshake()
                is_done = True
            nursery.cancel_scope.cancel()
        return is_done  # if not, trio closes what it accepted when we return

    async def _cancel_at_shutdown(self, scope: trio.CancelScope) -> None:
        await self._context.terminated.wait()
        scope.cancel()

    async def _refuse(self) -> None:
        """Answer a client too many: 503 where that costs nothing but a small write."""
        with self._census.refusal() as polite:
            if self._cleartext and polite:
                self._wire.write_nowait(too_many_connections())
                self._wire.finish()
                with trio.move_on_after(FAREWELL_S), suppress(trio.BrokenResourceError):
                    while await self._stream.receive_some(READ_BYTES):
                        pass
            else:
                self.abort()

    async def _serve(self, client: tuple[str, int] | None, server: tuple[str, int] | None) -> None:
        tls = not self._cleartext
        state = ConnectionState(self._state.copy())
        around = Surroundings(self, self._app, self._config, self._context, state, tls, client, server)
        self._http2 = partial(HTTP2, self._limits, around)
        if isinstance(self._stream, trio.SSLStream) and self._stream.selected_alpn_protocol() == "h2":
            self._protocol = self._http2()
        else:
            self._protocol = HTTP1(self._limits, around)
        async with trio.open_nursery() as self._nursery:
            await self._nursery.start(self._keep_time)
            try:
                await self._protocol.initiate()
                await self._read()
            finally:
                with trio.move_on_after(FAREWELL_S, shield=True):
                    await self._close()
                self.abort()  # if that was not to be done in good order
            # The socket is closed and every app knows: they are waited for, the time-keeper is not.
            self._is_over = True
            self._idle.cancel()
            if self._ending is not None:
                self._ending.cancel()

    async def _read(self) -> None:
        """Read until the client is gone or the connection is to close."""
        with self._reading:
            while True:
                try:
                    data = bytes(await self._stream.receive_some(READ_BYTES))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
                if self._closing:  # lingering: what it still sends no longer matters
                    if not data:
                        return
                    continue
                if data:
                    await self._parse(data)
                    if self._protocol.saturated and not await self._wait_for_room():
                        return
                else:
                    self._fin_seen = True
                    if self._cleartext and self._wire.can_outlive_fin:
                        await self._parse(data)
                        if self._protocol.survives_fin:
                            await self._outlive_fin()
                    return

    async def _parse(self, data: bytes) -> None:
        try:
            await self._protocol.handle(RawData(data))
        except H2ProtocolAssumedError as assumed:
            self._protocol = self._http2()
            await self._protocol.initiate()
            await self._parse(assumed.data)
        except Exception:
            logger.exception("Could not handle what a client sent")
            await self._protocol.fail()
            await self._hang_up()
        if data and not self._head_begun and self._protocol.expects_head:
            self._head_begun = True
            self._idle.deadline = trio.current_time() + self._limits.header_timeout_s

    async def _wait_for_room(self) -> bool:
        """Read no more until the app has caught up; False if the client went meanwhile."""
        gone = False

        async def watch() -> None:
            nonlocal gone
            await self._wire.finished()
            if self._cleartext:
                await self._outlive_fin()  # before the FIN may lie a request that is only read slowly
            gone = True
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await self._protocol.room()
            nursery.cancel_scope.cancel()
        return not gone

    async def _outlive_fin(self) -> None:
        """Serve on after a FIN; return when the client turns out to be gone.

        A write that waits needs no help: its bytes, once acknowledged or refused, say the same. While nothing
        waits, the lock is free, so what is said ahead stands between two whole writes. Inside a body of known
        length there is no such byte; then only the body's next bytes can tell.
        """
        asked = bool(self._said_ahead)
        if not self._send_lock.locked() and not asked:
            bytes_ahead, to_leave_out = self._protocol.ahead()
            sent = self._wire.write_nowait(bytes_ahead) if bytes_ahead else 0
            self._said_ahead = to_leave_out[:sent]
            asked = sent > 0
        gone = False
        while not gone:
            with trio.CancelScope() as scope:
                if not asked:
                    scope.deadline = self._written_at + self._limits.send_timeout_s
                await self._wire.hung_up()
                gone = True
            gone = gone or trio.current_time() >= self._written_at + self._limits.send_timeout_s

    async def _keep_time(self, task_status: trio.TaskStatus[None]) -> None:
        """Close the connection when it has stood idle too long, or at shutdown when it is idle."""
        try:
            with self._idle:
                self._idle.deadline = trio.current_time() + self._limits.header_timeout_s
                task_status.started()
                await self._context.terminated.wait()
                await self._protocol.announce_shutdown()
                if not self._protocol.idle:
                    await trio.sleep_forever()  # until the response ends and says so: `_mark`
            if self._is_over:
                return
            with trio.CancelScope() as self._ending:
                if not self._closing:
                    await self._protocol.time_out()
                    await self._hang_up()
                await self._context.terminated.wait()
                self._linger()
        except trio.Cancelled:
            # The server's patience is over, and writes are shielded from that: let out who waits in one, and
            # give a last word, if an app has one, no more than a moment.
            self._patience_s = FAREWELL_S
            if self._send_lock.locked():
                self.abort()
            raise

    async def _hang_up(self) -> None:
        """Ask for the end: what has been written still arrives. Idempotent; not a checkpoint."""
        if self._closing:
            return
        self._closing = True
        if self._protocol.unread and not self._fin_seen:
            if self._cleartext:
                self._wire.finish()
            self._linger()
        else:
            self._reading.cancel()
        await self._protocol.handle(Closed())

    def _linger(self) -> None:
        """Read on for a while at most, to throw it away; never longer than was said before."""
        linger_s = SHUTDOWN_LINGER_S if self._context.terminated.is_set() else LINGER_S
        self._reading.deadline = min(self._reading.deadline, trio.current_time() + linger_s)

    async def _close(self) -> None:
        """Tell the apps, and close the socket unless somebody still waits to write to it."""
        self._closing = True
        await self._protocol.handle(Closed())  # every app hears of it; nobody waits for them here
        if not self._closed and not self._send_lock.locked():
            await self._stream.aclose()
            self._closed = True

    # What the protocols ask for: protocol.Host

    async def send(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Updated):
            self._mark(event.idle)
        elif isinstance(event, Closed):
            await self._hang_up()
        elif isinstance(event, Cut):
            self.abort()

    def _mark(self, idle: bool) -> None:
        self._head_begun = False
        if not idle:
            self._idle.deadline = float("inf")
        elif self._context.terminated.is_set():
            self._idle.deadline = trio.current_time()
        else:
            self._idle.deadline = trio.current_time() + self._limits.idle_connection_s

    async def _write(self, data: bytes) -> None:
        """Write `data` whole, after all that was written before it, or lose the connection.

        Not interrupted by cancellation, but bounded: the connection is reset when no piece of it has moved
        for `send_timeout_s`. On a dead connection nothing happens. Lets other tasks run.
        """
        self._written_at = trio.current_time()
        # Up to the lock's queue there is no checkpoint: writes are in the order in which they were called.
        if self._said_ahead:
            data, self._said_ahead = data.removeprefix(self._said_ahead), b""
        if self._cleartext and not self._closed and not self._send_lock.locked():
            data = data[self._wire.write_nowait(data) :]
        if self._closed or not data:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        with trio.CancelScope(shield=True, deadline=self._patience_ends()) as scope:
            self._writes.add(scope)
            try:
                async with self._send_lock:
                    for start in range(0, len(data), PIECE_BYTES):
                        await self._stream.send_all(data[start : start + PIECE_BYTES])
                        self._written_at = trio.current_time()
                        # Those who wait for the lock wait for this connection to move, and it does.
                        for waiting in self._writes:
                            waiting.deadline = self._patience_ends()
                return
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                self._writes.discard(scope)
        if scope.cancelled_caught:
            self._stalled = True
            logger.info("A client took nothing for %g s: reset", self._patience_s)
        self.abort()
        await self._protocol.handle(Closed())

    def _patience_ends(self) -> float:
        return trio.current_time() + self._patience_s

    def spawn(self, func: Callable[..., Awaitable[object]], *args: object) -> None:
        self._nursery.start_soon(func, *args)

    async def spend(self, parsing_s: float) -> None:
        if self._parsing.charge(parsing_s):
            await trio.sleep(self._parsing.owed_s)

    def start_app(self, stream_id: int, scope: HTTPScope, send: Send) -> Put:
        protocol = self._protocol

        async def taken(size: int) -> None:
            await protocol.taken(stream_id, size)

        def abort() -> None:
            if exchange.gone:
                return  # over, or being ended: what the connection does now is not this app's business
            exchange.disconnect_nowait()
            if not self._closed and protocol.drop_nowait(stream_id):
                self.spawn(self._flush_or_drop)
            else:
                self.abort()

        def stalled() -> bool:
            return self._stalled or protocol.has_stalled(stream_id)

        exchange = Exchange(scope, send, taken, self._limits.send_timeout_s)
        scope["extensions"][EXTENSION] = {
            "abort": abort,
            "stalled": stalled,
            "terminated": self._context.terminated,
            "drain_s": max(0.0, self._config.graceful_timeout - CUT_S),
        }
        self._nursery.start_soon(exchange.run, self._app)
        return exchange.put

    async def _flush_or_drop(self) -> None:
        """Write the RST_STREAM of an evicted stream; if the connection stands still, drop it whole."""
        with trio.move_on_after(self._limits.evict_grace_s):
            async with self._send_lock:
                pass
            await self._protocol.flush()
            return
        self.abort()
