"""Server-sent events for many readers: encoded once, bounded, and no reader waits for another.

Rules
-----
- `publish_nowait` numbers an event and puts it into the batch that goes out next. A flush joins the batch to
  one bytes object and offers that same object to every viewer's channel: what a viewer costs does not
  depend on how many events there are.
- The first event after a pause goes out at once. Then batches are spaced by what writing them costs, and with
  many viewers a batch goes to some of them at a time, so that all of this takes a small share of the event
  loop and no token of a stream waits for it long: with 100 viewers each is up to date to a quarter of a
  second, with a thousand to half a second. A person hardly sees that, the streams would.
- A viewer whose channel is full loses what waits there and gets one fresh snapshot instead, encoded when it
  takes it. A viewer that leaves that lying too is evicted: it is not reading.
- A ring holds the last events for viewers that come back with a `Last-Event-ID`. Where it does not reach
  back that far, or the id is of another run of the server, they get a snapshot.
- With no viewers nothing is published, numbered or kept.

Content (prompts, output) goes only to viewers that may see it: a batch has two forms, with and without.
"""

import secrets
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

import trio

from corral.serving.mailbox import Mailbox

RING_EVENTS = 2048
RING_BYTES = 2**20
VIEWER_BATCHES = 64
"""How far a viewer may lag before it gets a snapshot, and how much more until it is evicted."""
SLICE_VIEWERS = 20
"""A batch goes to so many viewers at a time: a stream's token waits for no more than these."""
WRITE_S = 1e-4
"""What a write to one viewer costs the event loop, about."""
LEAST_ROUND_S, LONG_ROUND_S = 0.01, 0.5
CALM_SHARE, MOST_SHARE = 0.04, 0.2
"""Viewers may take CALM_SHARE of a core; up to MOST_SHARE if they would otherwise be served less often
than every LONG_ROUND_S."""
SNAPSHOT_AGE_S = 0.1
"""With nothing published, how old a shared snapshot's running times may be."""
KEEPALIVE = b": keepalive\n\n"
RETRY = b"retry: 2000\n\n"
"""How soon a browser comes back, in ms; told first."""


@dataclass(frozen=True, slots=True)
class _Entry:
    seq: int
    frame: bytes
    is_content: bool


@dataclass(frozen=True, slots=True)
class _Batch:
    entries: list[_Entry]
    whole: bytes
    public: bytes


class Viewer:
    """One reader's end. `receive` is called by one task; everything else is the broker's."""

    __slots__ = (
        "_awaits_snapshot",
        "_broker",
        "_mailbox",
        "_max_batches",
        "_missed",
        "_on_evicted",
        "is_evicted",
        "seen_seq",
        "sees_content",
    )

    def __init__(
        self, broker: "Broker", *, sees_content: bool, max_batches: int, on_evicted: Callable[[], None]
    ) -> None:
        self.sees_content = sees_content
        self.is_evicted = False
        self.seen_seq = broker.seq
        """What was published up to here is in what it got first, or in its last snapshot."""
        self._broker = broker
        self._on_evicted = on_evicted
        self._max_batches = max_batches
        self._mailbox: Mailbox[bytes] = Mailbox(max_batches)
        self._missed = 0
        self._awaits_snapshot = False

    @property
    def waiting(self) -> int:
        """Batches that it has not taken yet."""
        return self._mailbox.waiting

    async def receive(self) -> bytes:
        """Everything that waits, as one write; a checkpoint. Cancelling it loses nothing.

        Raises EndOfChannel after the broker's end.
        """
        parts = await self._mailbox.receive_all()
        if self._awaits_snapshot:  # which has all that is in the parts
            self._awaits_snapshot = False
            self._broker.complete()
            self.seen_seq = self._broker.seq
            return self._broker.snapshot(self.sees_content)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def push_nowait(self, data: bytes) -> None:
        """Never blocks and never raises."""
        if self._awaits_snapshot:
            self._missed += 1
            if self._missed > self._max_batches and not self.is_evicted:
                self.is_evicted = True
                self._broker.evicted += 1
                self._on_evicted()
        elif not self._mailbox.push_nowait(data):
            # All of it will be in the snapshot. Of what waits only this stays, or the reader would not come.
            # Nothing can be received in between: the reader runs once this synchronous call is over.
            self._mailbox.clear()
            self._mailbox.push_nowait(data)
            self._awaits_snapshot = True
            self._missed = 0

    def close(self) -> None:
        """What waits is still received, then the channel ends."""
        self._mailbox.close()


class Broker:
    """Hands events to viewers.

    `snapshot(sees_content)` encodes the whole state, as of now. `collect()` is called before a batch goes
    out, to publish what is only worth saying once per batch; it returns when it wants to be called again.
    `complete()` is called before a viewer gets a snapshot, to publish what is in that and is not to be told
    again. `on_watched` is told when the first viewer comes and when the last one leaves.
    """

    def __init__(
        self,
        snapshot: Callable[[bool], bytes],
        collect: Callable[[], float] = lambda: inf,
        *,
        complete: Callable[[], None] = lambda: None,
        on_watched: Callable[[bool], None] = lambda is_watched: None,
        viewer_batches: int = VIEWER_BATCHES,
        ring_events: int = RING_EVENTS,
    ) -> None:
        self.evicted = 0
        self.complete = complete
        self._on_watched = on_watched
        self._encode_snapshot = snapshot
        self._collect = collect
        self._viewer_batches = viewer_batches
        self._run_id = secrets.token_hex(4)
        self.seq = 0
        """The number of the last event."""
        self._ring: deque[_Entry] = deque(maxlen=ring_events)
        self._ring_bytes = 0
        self._entries: list[_Entry] = []
        self._viewers: dict[Viewer, None] = {}  # in the order in which they came
        self._snapshots: dict[bool, tuple[int, float, bytes]] = {}
        self._wake = trio.Event()
        self._is_closed = False

    @property
    def viewers(self) -> int:
        return len(self._viewers)

    def wake(self) -> None:
        """There is something to send or to collect."""
        self._wake.set()

    def publish_nowait(self, event: str, data: bytes, *, is_content: bool = False) -> None:
        """Send an event to all viewers, or to those that may see content. `data` is one line of JSON."""
        if not self._viewers:
            return
        self.seq += 1
        frame = b"id: %b\nevent: %b\ndata: %b\n\n" % (self._id(), event.encode(), data)
        entry = _Entry(self.seq, frame, is_content)
        self._entries.append(entry)
        if len(self._ring) == self._ring.maxlen:
            self._ring_bytes -= len(self._ring.popleft().frame)
        self._ring.append(entry)
        self._ring_bytes += len(frame)
        while self._ring_bytes > RING_BYTES:
            self._ring_bytes -= len(self._ring.popleft().frame)
        self._wake.set()

    @contextmanager
    def subscribe(
        self,
        *,
        sees_content: bool,
        last_event_id: str | None = None,
        on_evicted: Callable[[], None] = lambda: None,
    ) -> Iterator[Viewer]:
        """Watch until the block is left. `on_evicted` is called once if it lags too far; may not block or
        raise.

        What the viewer receives first brings it to the present: a snapshot, or what it missed.
        """
        if not self._viewers:
            self.seq += 1  # nothing was published meanwhile: no id from before may seem up to date
        self.complete()
        viewer = Viewer(
            self, sees_content=sees_content, max_batches=self._viewer_batches, on_evicted=on_evicted
        )
        missed = self._missed_since(last_event_id, sees_content)
        viewer.push_nowait(self.snapshot(sees_content) if missed is None else missed)
        if self._is_closed:
            viewer.close()
        self._viewers[viewer] = None
        if len(self._viewers) == 1:
            self._on_watched(True)
        self._wake.set()  # the others are told that there is one more, and it, that it is counted
        try:
            yield viewer
        finally:
            del self._viewers[viewer]
            viewer.close()
            if not self._viewers:
                self._forget()
                self._on_watched(False)

    def snapshot(self, sees_content: bool) -> bytes:
        """The state as one event that replaces all before it.

        Viewers that need one at once get the same bytes object: it may be large, and whoever writes to a
        viewer holds on to what it wrote last.
        """
        now_s = trio.current_time()
        seq, made_s, frame = self._snapshots.get(sees_content, (-1, -inf, b""))
        if seq != self.seq or made_s < now_s - SNAPSHOT_AGE_S:
            data = self._encode_snapshot(sees_content)
            frame = b"%bid: %b\nevent: snapshot\ndata: %b\n\n" % (RETRY, self._id(), data)
            self._snapshots[sees_content] = self.seq, now_s, frame
        return frame

    def flush_nowait(self) -> None:
        """Offer what has been published to every viewer now."""
        self._collect_if_watched()
        batch = self._take()
        for viewer in tuple(self._viewers):
            self._offer(viewer, batch)

    async def run(self) -> None:
        """Send batches until cancelled."""
        due_s = inf
        while True:
            with trio.move_on_at(due_s):
                await self._wake.wait()
            self._wake = trio.Event()
            due_s = self._collect_if_watched()
            batch, viewers = self._take(), tuple(self._viewers)
            if not batch.entries:
                await trio.sleep(LEAST_ROUND_S)
                continue
            slices = range(0, max(1, len(viewers)), SLICE_VIEWERS)
            pause_s = round_s(len(viewers)) / len(slices)
            for start in slices:
                for viewer in viewers[start : start + SLICE_VIEWERS]:
                    self._offer(viewer, batch)
                await trio.sleep(pause_s)

    def _collect_if_watched(self) -> float:
        return self._collect() if self._viewers else inf

    def _take(self) -> "_Batch":
        entries, self._entries = self._entries, []
        return _Batch(entries, _join(entries, True), _join(entries, False))

    def _offer(self, viewer: Viewer, batch: "_Batch") -> None:
        if viewer not in self._viewers or self._is_closed or not batch.entries:
            return
        if viewer.seen_seq >= batch.entries[0].seq:  # it came in between: part of this is not news to it
            news = [entry for entry in batch.entries if entry.seq > viewer.seen_seq]
            data = _join(news, viewer.sees_content)
        else:
            data = batch.whole if viewer.sees_content else batch.public
        if data:
            viewer.push_nowait(data)

    def close(self) -> None:
        """The server shuts down: viewers get what waits, and their streams end."""
        self.flush_nowait()
        self._is_closed = True
        for viewer in tuple(self._viewers):
            viewer.close()

    def _missed_since(self, last_event_id: str | None, sees_content: bool) -> bytes | None:
        """The events after that one; None if the ring does not reach back to it."""
        run_id, _, given = (last_event_id or "").partition("-")
        if run_id != self._run_id or not (given.isascii() and given.isdigit()) or not self._viewers:
            return None
        last = int(given)
        oldest = self._ring[0].seq if self._ring else self.seq + 1
        if last + 1 < oldest or last > self.seq:
            return None
        return RETRY + _join([entry for entry in self._ring if entry.seq > last], sees_content)

    def _id(self) -> bytes:
        return f"{self._run_id}-{self.seq}".encode()

    def _forget(self) -> None:
        self._entries.clear()
        self._ring.clear()
        self._ring_bytes = 0
        self._snapshots.clear()


def round_s(viewers: int) -> float:
    """How long serving a batch to so many viewers should take, in seconds."""
    cost_s = viewers * WRITE_S
    return max(LEAST_ROUND_S, min(cost_s / CALM_SHARE, max(LONG_ROUND_S, cost_s / MOST_SHARE)))


def _join(entries: list[_Entry], sees_content: bool) -> bytes:
    return b"".join([entry.frame for entry in entries if sees_content or not entry.is_content])
