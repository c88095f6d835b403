"""How a server's process ends: in order when it is asked to, and in time whatever hangs.

Before anything is served a signal has its default action: whatever is being loaded, and whatever a thread
waits for, the process is gone, and says by which signal. From then on the first SIGTERM or SIGINT asks for an
end in order and the second drops every connection. Both start a clock, in a thread that needs neither the
event loop nor any other thread: an engine may hang in a step that never returns, and whoever waits for it
then waits for ever. When the time is over, this thread writes one line to the log and ends the process.

The exit code is 0 if the end was in order, also where the second signal cut it short, and 128 + the signal's
number, as a shell would tell it, if something had to be left behind.
"""

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import NoReturn

import trio

logger = logging.getLogger("corral.transport")

SIGNALS = (signal.SIGTERM, signal.SIGINT)

# After the drain, for the last words of what was cut to reach the wire.
CUT_S = 0.7

# After the last connection, for the app to stop.
CLOSING_S = 1.0

# After a second signal, for everything.
AT_ONCE_S = 0.5

# Longest an end in order may take beside the drain: what the two before add up to, and a little.
BESIDE_DRAIN_S = CUT_S + CLOSING_S + 0.1

# Longest the log may take with its last line: whoever reads our stderr may have stopped reading.
LAST_WORD_S = 0.1


class Ending:
    """The end of this process, from the first signal on. For the main thread: no other hears of signals."""

    def __init__(self, drain_s: float, *, has_parent: bool = False) -> None:
        """`has_parent`: SIGTERM after the first is no hurry, since a parent process sends it of itself."""
        self.asked = trio.Event()
        """The process is to end in order."""
        self._drain_s = drain_s
        self._has_parent = has_parent
        self._is_asked = False
        self._watchdog = _Watchdog()
        self._drop: Callable[[], None] | None = None
        self._to_trio: trio.lowlevel.TrioToken

    @contextmanager
    def by_signals(self) -> Iterator[None]:
        """Answer signals for the length of the block: by default until `serving_nowait`, then as above."""
        before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
        try:
            yield
        finally:
            self._watchdog.call_off()
            for number, action in before.items():
                signal.signal(number, action or signal.SIG_DFL)  # None: not Python's to restore

    def serving_nowait(self, scope: trio.CancelScope) -> None:
        """From now on there is something to end in order; a second signal cancels `scope`. Once."""
        self._to_trio = trio.lowlevel.current_trio_token()
        self._drop = scope.cancel
        self._watchdog.start()
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def ask_nowait(self) -> None:
        """Ask for the end as the first signal does, from the event loop."""
        if self._drop is None:
            os._exit(0)  # nothing was served yet
        self._handle(signal.SIGTERM, None)

    def closing_nowait(self) -> None:
        """The last connection is gone, and the app has been told to stop."""
        if self._is_asked:
            self._watchdog.end_within(CLOSING_S)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        # Runs between any two instructions of the main thread, so it takes no lock: nothing here does.
        if not self._is_asked:
            self._is_asked = True
            self._watchdog.end_within(self._drain_s + BESIDE_DRAIN_S, number)
            self._run_soon(self.asked.set)
        elif self._drop is not None and not (self._has_parent and number == signal.SIGTERM):
            self._watchdog.end_within(AT_ONCE_S)
            self._run_soon(self._drop)

    def _run_soon(self, action: Callable[[], None]) -> None:
        with suppress(trio.RunFinishedError):  # over already
            self._to_trio.run_sync_soon(action)


class _Watchdog:
    """A thread that ends the process at a deadline. Its methods may be called from a signal handler."""

    def __init__(self) -> None:
        self._orders: SimpleQueue[tuple[float, int] | None] = SimpleQueue()  # the one queue that is reentrant
        self._thread = threading.Thread(target=self._run, name="corral-ending", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end_within(self, seconds: float, number: int = 0) -> None:
        """Bring the deadline forward, because of the signal `number` where that is new."""
        self._orders.put((time.monotonic() + seconds, number))

    def call_off(self) -> None:
        """There is nothing left that could hang."""
        self._orders.put(None)

    def _run(self) -> None:
        deadline, number, began = math.inf, 0, 0.0
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                order = self._orders.get(timeout=None if left_s == math.inf else left_s)
            except Empty:
                continue
            if order is None:
                return
            began = began or time.monotonic()
            deadline, number = min(deadline, order[0]), order[1] or number
        _leave(signal.Signals(number), time.monotonic() - began)


def _leave(number: signal.Signals, elapsed_s: float) -> NoReturn:
    """End the process where it stands, with a line in the log if that can be written."""
    threads = ", ".join(
        sorted(thread.name for thread in threading.enumerate() if thread is not threading.current_thread())
    )
    line = "%s was %.1f s ago, and something does not end: leaving it. Threads: %s"
    last_word = threading.Thread(
        target=logger.error, args=(line, number.name, elapsed_s, threads), daemon=True
    )
    last_word.start()
    last_word.join(LAST_WORD_S)
    os._exit(128 + number)
