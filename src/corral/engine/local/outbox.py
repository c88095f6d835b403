"""What steps produced, on its way to the event loop: together where steps are quicker than the eye.

A delivery wakes the event loop, which makes frames, writes them, and wakes their readers. On the cores that
llama.cpp computes with, that takes time from the next step, a tenth of it with a small model; on a GPU with
many streams the event loop could not follow at all. vLLM and SGLang call it a stream interval.
"""

from collections.abc import Callable
from time import perf_counter

from corral.engine.local.task import Delivery


class Outbox:
    """Holds deliveries back for less than `interval_s`; `deliver` may neither block nor raise.

    First tokens, ends, progress and failures never wait, and what was held goes out before them.
    """

    def __init__(self, deliver: Callable[[Delivery], None], interval_s: float) -> None:
        self._deliver = deliver
        self._interval_s = interval_s
        self._held = Delivery()
        self._delivered_s = 0.0

    def put(self, delivery: Delivery, next_s: float | None) -> None:
        """Deliver, or hold. `next_s` from now more is expected; None if that is not known."""
        self._held.extend(delivery)
        due_s = None if next_s is None else perf_counter() + next_s - self._delivered_s
        if due_s is None or due_s >= self._interval_s or self._held.is_urgent:
            self.flush()

    def flush(self) -> None:
        """Deliver what is held."""
        if self._held:
            self._delivered_s = perf_counter()
            held, self._held = self._held, Delivery()
            self._deliver(held)
