"""What steps produced, on its way to the event loop: together where steps are quicker than the eye.

A delivery wakes the event loop, which makes frames, writes them, and wakes their readers. On the cores that
llama.cpp computes with, that takes time from the next step, a tenth of it with a small model; on a GPU with
many streams the event loop could not follow at all. vLLM and SGLang call it a stream interval.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

from corral.engine.local.task import Delivery
from corral.events import BlockDelta, Event, Sampled, TokenLogprob

STREAM_S = 0.0005
"""By so much longer is text held for each stream that has some: the loop takes some 50 us to write one's, so
that is a tenth of its time, however many there are."""


class Outbox:
    """Holds text back for less than `interval_s`, and longer where many streams have some.

    `deliver` may neither block nor raise. First tokens, ends, progress and failures never wait; what was held
    of the same task goes out before them. The text of several steps becomes one delta.
    """

    def __init__(self, deliver: Callable[[Delivery], None], interval_s: float) -> None:
        self._deliver = deliver
        self._interval_s = interval_s
        self._held: dict[int, _Held] = {}
        self._delivered_s = 0.0

    def put(self, delivery: Delivery) -> None:
        """Deliver what does not wait, and hold the rest for the next `before_step` or `flush`."""
        if not self._interval_s or delivery.failure or delivery.has_recovered:
            self._send(delivery, all_held=True)
            return
        urgent = Delivery(released=delivery.released)
        released = {key for key, _ in delivery.released}
        for key, events in delivery.events:
            if key in released or not _is_text(events):
                urgent.events.append((key, events))
            else:
                self._hold(key, events)
        if urgent:
            self._send(urgent, all_held=False)

    def before_step(self, step_s: float) -> None:
        """Deliver what cannot wait for the end of a step that is to take so long."""
        if self._held:
            waits_s = self._interval_s + STREAM_S * len(self._held)
            if perf_counter() + step_s - self._delivered_s >= waits_s:
                self.flush()

    def flush(self) -> None:
        """Deliver what is held."""
        self._send(Delivery(), all_held=True)

    def _hold(self, key: int, events: list[Event]) -> None:
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = _Held()
        for event in events:
            held.add(event)

    def _send(self, delivery: Delivery, *, all_held: bool) -> None:
        """Deliver, behind what was held of the same tasks, or of all of them."""
        if all_held:
            self._delivered_s = perf_counter()
        if not self._held:
            if delivery:
                self._deliver(delivery)
            return
        if all_held:
            self._join(delivery)
        keys = [key for key, _ in delivery.events] + [key for key, _ in delivery.released]
        told: dict[int, list[Event]] = {}
        for key in [*self._held] if all_held else keys:
            if (held := self._held.pop(key, None)) is not None:
                told[key] = held.events()
        for key, events in delivery.events:
            if key in told:
                told[key] += events
            else:
                told[key] = events
        delivery.events = list(told.items())
        if delivery:
            self._deliver(delivery)

    def _join(self, delivery: Delivery) -> None:
        """Hold, for this moment, the text of a delivery behind held text: both become one delta."""
        rest = []
        for key, events in delivery.events:
            if key in self._held and _is_text(events):
                self._hold(key, events)
            else:
                rest.append((key, events))
        delivery.events = rest


def _is_text(events: list[Event]) -> bool:
    return all(isinstance(event, _TEXT) for event in events)


_TEXT = (BlockDelta, Sampled)


@dataclass(slots=True)
class _Held:
    """What several steps said of one task: their text is one delta, and they are one step but for drafts."""

    tokens: int = 0
    reasoning_tokens: int = 0
    drafted: list[Event] = field(default_factory=list)
    index: int = 0
    """Of the block that the text belongs to: where another one opens, nothing is held."""
    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """One more, a BlockDelta or a Sampled."""
        if isinstance(event, BlockDelta):
            self.index = event.index
            self.texts.append(event.text)
            self.logprobs += event.logprobs
        elif isinstance(event, Sampled):
            if event.draft:
                self.drafted.append(event)
            else:
                self.tokens += event.tokens
                self.reasoning_tokens += event.reasoning_tokens

    def events(self) -> list[Event]:
        """All of it."""
        told = self.drafted
        if self.tokens:
            told.append(Sampled(self.tokens, reasoning_tokens=self.reasoning_tokens))
        if self.texts:
            told.append(BlockDelta(self.index, "".join(self.texts), tuple(self.logprobs)))
        return told
