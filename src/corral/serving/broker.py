"""Server-sent events for many readers: encoded once, bounded, and no reader waits for another.

Rules
-----
- `publish_nowait` numbers an event and puts it into the batch that goes out next. A flush joins the batch to
  one bytes object and offers that same object to every viewer's channel: what a viewer costs does not
  depend on how many events there are.
- The first event after a pause goes out at once. Then batches are spaced so that writing to all viewers
  takes a bounded share of the event loop: a person does not see the difference, the streams would.
- A viewer whose channel is full loses what waits there and gets one fresh snapshot instead, encoded when it
  takes it. A viewer that leaves that lying too is evicted: it is not reading.
- A ring holds the last events for viewers that come back with a `Last-Event-ID`. Where it does not reach
  back that far, or the id is of another run of the server, they get a snapshot.
- With no viewers nothing is published, numbered or kept: `is_watched` is what the publisher checks first.

Content (prompts, output) goes only to viewers that may see it: a batch has two forms, with and without.
"""

import secrets
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

import trio

RING_EVENTS = 2048
RING_BYTES = 2**20
VIEWER_BATCHES = 64
"""How far a viewer may lag before it gets a snapshot, and how much more until it is evicted."""
MIN_INTERVAL_S = 0.01
VIEWER_COST_S = 0.0005
"""Pause per viewer between two batches. A write to one costs about 0.1 ms, so all take a fifth of a core."""
SNAPSHOT_AGE_S = 0.1
"""With nothing published, how old a shared snapshot's running times may be."""
KEEPALIVE = b": keepalive\n\n"
RETRY_MS = 2000


@dataclass(frozen=True, slots=True)
class _Entry:
    seq: int
    frame: bytes
    is_content: bool


class Viewer:
    """One reader's end. `receive` is called by one task; everything else is the broker's."""

    def __init__(self, broker: "Broker", *, sees_content: bool, max_batches: int) -> None:
        self.sees_content = sees_content
        self.on_evicted: Callable[[], None] = lambda: None
        """Called once, if it is evicted. May not block or raise."""
        self.is_evicted = False
        self._broker = broker
        self._max_batches = max_batches
        self._send, self._receive = trio.open_memory_channel[bytes | None](max_batches)
        self._missed = 0
        self._awaits_snapshot = False

    async def receive(self) -> bytes:
        """Everything that waits, as one write; a checkpoint. Raises EndOfChannel after the broker's end."""
        parts = [await self._receive.receive()]
        while True:
            try:
                parts.append(self._receive.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                break
        if None in parts:  # in which case it is alone
            # What the snapshot's own flush offers is in the snapshot: it must still be missed here.
            snapshot = self._broker.snapshot(self.sees_content)
            self._awaits_snapshot = False
            return snapshot
        return b"".join(part for part in parts if part is not None)

    def push_nowait(self, data: bytes) -> None:
        """Never blocks and never raises."""
        if self._awaits_snapshot:
            self._missed += 1
            if self._missed > self._max_batches and not self.is_evicted:
                self.is_evicted = True
                self._broker.evicted += 1
                self.on_evicted()
            return
        try:
            self._send.send_nowait(data)
        except trio.WouldBlock:
            self._coalesce()

    def tick_nowait(self) -> None:
        """Keep the connection alive, unless something waits to be written anyway."""
        if self._receive.statistics().current_buffer_used == 0:
            self.push_nowait(KEEPALIVE)

    def close(self) -> None:
        """What waits is still received, then the channel ends."""
        self._send.close()

    def _coalesce(self) -> None:
        # Everything that waits is older than the snapshot will be. Nothing can be received in between: the
        # reader runs only once this synchronous call is over.
        while True:
            try:
                self._receive.receive_nowait()
            except trio.WouldBlock:
                break
        self._awaits_snapshot = True
        self._missed = 0
        self._send.send_nowait(None)


class Broker:
    """Hands events to viewers.

    `snapshot(sees_content)` encodes the whole state, as of now. `collect()` is called before a batch goes
    out, to publish what is only worth saying once per batch; it returns when it wants to be called again.
    """

    def __init__(
        self,
        snapshot: Callable[[bool], bytes],
        collect: Callable[[], float] = lambda: inf,
        *,
        viewer_batches: int = VIEWER_BATCHES,
        ring_events: int = RING_EVENTS,
    ) -> None:
        self.evicted = 0
        self.on_watched: Callable[[bool], None] = lambda is_watched: None
        """Told when the first viewer comes and when the last one leaves."""
        self._encode_snapshot = snapshot
        self._collect = collect
        self._viewer_batches = viewer_batches
        self._run_id = secrets.token_hex(4)
        self._seq = 0
        self._ring: deque[_Entry] = deque(maxlen=ring_events)
        self._ring_bytes = 0
        self._batch: list[_Entry] = []
        self._viewers: set[Viewer] = set()
        self._snapshots: dict[bool, tuple[int, float, bytes]] = {}
        self._wake = trio.Event()
        self._is_closed = False

    @property
    def is_watched(self) -> bool:
        return bool(self._viewers)

    @property
    def viewers(self) -> int:
        return len(self._viewers)

    @property
    def interval_s(self) -> float:
        """Shortest time between two batches."""
        return max(MIN_INTERVAL_S, VIEWER_COST_S * len(self._viewers))

    def wake(self) -> None:
        """There is something to send or to collect."""
        self._wake.set()

    def publish_nowait(self, event: str, data: bytes, *, is_content: bool = False) -> None:
        """Send an event to all viewers, or to those that may see content. `data` is one line of JSON."""
        if not self._viewers:
            return
        self._seq += 1
        frame = b"id: %b\nevent: %b\ndata: %b\n\n" % (self._id(), event.encode(), data)
        entry = _Entry(self._seq, frame, is_content)
        self._batch.append(entry)
        if len(self._ring) == self._ring.maxlen:
            self._ring_bytes -= len(self._ring.popleft().frame)
        self._ring.append(entry)
        self._ring_bytes += len(frame)
        while self._ring_bytes > RING_BYTES:
            self._ring_bytes -= len(self._ring.popleft().frame)
        self._wake.set()

    @contextmanager
    def subscribe(self, *, sees_content: bool, last_event_id: str | None = None) -> Iterator[Viewer]:
        """Watch until the block is left.

        What the viewer receives first brings it to the present: a snapshot, or what it missed.
        """
        self.flush_nowait()  # what waits happened before, and is part of what it gets first
        viewer = Viewer(self, sees_content=sees_content, max_batches=self._viewer_batches)
        if not self._viewers:
            self._seq += 1  # nothing was published meanwhile: no id from before may seem up to date
        first = self._missed_since(last_event_id, sees_content)
        viewer.push_nowait(
            b"retry: %d\n\n" % RETRY_MS + (self.snapshot(sees_content) if first is None else first)
        )
        if self._is_closed:
            viewer.close()
        self._viewers.add(viewer)
        if len(self._viewers) == 1:
            self.on_watched(True)
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)
            viewer.close()
            if not self._viewers:
                self._forget()
                self.on_watched(False)

    def snapshot(self, sees_content: bool) -> bytes:
        """The state as one event that replaces all before it; viewers that need one at once share it."""
        self.flush_nowait()
        now_s = trio.current_time()
        seq, made_s, frame = self._snapshots.get(sees_content, (-1, -inf, b""))
        if seq != self._seq or made_s < now_s - SNAPSHOT_AGE_S:
            data = self._encode_snapshot(sees_content)
            frame = b"id: %b\nevent: snapshot\ndata: %b\n\n" % (self._id(), data)
            self._snapshots[sees_content] = self._seq, now_s, frame
        return frame

    def flush_nowait(self) -> float:
        """Offer what has been published to every viewer; returns when `collect` wants to be called again."""
        due_s = self._collect() if self._viewers else inf
        if self._batch:
            batch, self._batch = self._batch, []
            whole = b"".join([entry.frame for entry in batch])
            public = b"".join([entry.frame for entry in batch if not entry.is_content])
            for viewer in tuple(self._viewers):
                data = whole if viewer.sees_content else public
                if data:
                    viewer.push_nowait(data)
        return due_s

    async def run(self) -> None:
        """Send batches until cancelled."""
        due_s = inf
        while True:
            with trio.move_on_at(due_s):
                await self._wake.wait()
            self._wake = trio.Event()
            due_s = self.flush_nowait()
            await trio.sleep(self.interval_s)

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
        oldest = self._ring[0].seq if self._ring else self._seq + 1
        if last + 1 < oldest or last > self._seq:
            return None
        frames = [e.frame for e in self._ring if e.seq > last and (sees_content or not e.is_content)]
        return b"".join(frames)

    def _id(self) -> bytes:
        return f"{self._run_id}-{self._seq}".encode()

    def _forget(self) -> None:
        self._batch.clear()
        self._ring.clear()
        self._ring_bytes = 0
        self._snapshots.clear()
