"""From the ledger to the viewers of /status, as it happens.

While somebody watches, the ledger tells this class of every change. Text goes on at once, counters at
most every `COUNTERS_S`, changes of state with the next batch. While nobody does, it hears only of
requests that are over.
"""

from dataclasses import replace
from math import inf

import msgspec
import trio

from corral.books.ledger import Ledger, Refusal
from corral.books.record import Record
from corral.engine.contract import ReplicaState
from corral.events import Sampled
from corral.watching import views
from corral.watching.broker import Broker
from corral.watching.history import History
from corral.watching.picture import Picture

COUNTERS_S = 0.1
QUEUE_S = 1.0
"""How often estimates of a wait are sent while nobody's place has changed."""

_encode = msgspec.json.Encoder().encode


class Feed:
    """A `Watcher` of the ledger, while there are viewers; `broker` has them."""

    def __init__(self, ledger: Ledger, picture: Picture, history: History) -> None:
        self._ledger = ledger
        self._picture = picture
        self._history = history
        self._dirty: set[Record] = set()
        self._moved: set[Record] = set()
        self._told_content: set[str] = set()
        self._counted_s = -inf
        self._told: tuple[bytes, bytes] = b"", b""
        self._queue_told_s = -inf
        self.broker = Broker(self._snapshot, self._collect, on_watched=self._watched)

    def snapshot(self, *, with_content: bool) -> views.Snapshot:
        """The whole state, as of now."""
        broker = self.broker
        return self._picture.snapshot(broker.viewers, broker.evicted, with_content=with_content)

    # What the ledger tells

    def changed(self, record: Record, *, at_once: bool) -> None:
        (self._moved if at_once else self._dirty).add(record)
        self.broker.wake()

    def said(self, record: Record, choice: int, number: int, text: str) -> None:
        self._tell_if_moved(record)  # its messages and its start come before its text
        token = views.token(record, choice, number, text)
        self.broker.publish_nowait("token", _encode(token), is_content=True)

    def drafted(self, record: Record, choice: int, step: Sampled) -> None:
        self._tell_if_moved(record)
        draft = views.draft(record.about.id, choice, step)
        self.broker.publish_nowait("draft", _encode(draft), is_content=True)

    def settled(self, record: Record) -> None:
        """For the ledger's `on_settled`: into the history, and to who watches."""
        row = self._history.add(record, with_content=self._ledger.keeps_content)
        self._tell_if_moved(record)
        self._moved.discard(record)
        self._dirty.discard(record)
        self._told_content.discard(record.about.id)
        self.broker.publish_nowait("finished", _encode(row))

    def refused(self, _refusal: Refusal) -> None:
        """For the ledger's `on_refused`: the totals have moved."""
        self.broker.wake()

    # What the broker asks

    def _snapshot(self, sees_content: bool) -> bytes:
        return _encode(self.snapshot(with_content=sees_content))

    def _collect(self) -> float:
        now_s = trio.current_time()
        for record in tuple(self._moved):
            self._tell(record)
        due_s = inf
        if self._dirty:
            due_s = self._counted_s + COUNTERS_S
            if now_s >= due_s:
                for record in self._dirty:
                    self.broker.publish_nowait("request", _encode(views.counters(record)))
                self._dirty.clear()
                self._counted_s, due_s = now_s, inf
        self._tell_of_server()
        return due_s

    def _tell_if_moved(self, record: Record) -> None:
        if record in self._moved:
            self._tell(record)

    def _tell(self, record: Record) -> None:
        """All that is known of a request but its output, which the tokens tell."""
        self._moved.discard(record)
        self.broker.publish_nowait("request", _encode(views.request(record, with_content=False)))
        if self._ledger.keeps_content and record.about.id not in self._told_content:
            self._told_content.add(record.about.id)
            content = views.content(record)
            self.broker.publish_nowait("request", _encode(content), is_content=True)

    def _tell_of_server(self) -> None:
        """The queue and the server, where they changed in more than the time of day."""
        viewers, evicted = self.broker.viewers, self.broker.evicted
        queue = self._picture.queue()
        event = views.ServerEvent(
            self._picture.server(),
            self._picture.totals(evicted),
            self._picture.subscribers(viewers, evicted),
            self._picture.replicas(),
        )
        shape = (
            _encode([(place.id, place.position) for place in queue]),
            _encode(
                msgspec.structs.replace(
                    event, server=_timeless(event.server), replicas=_workless(event.replicas)
                )
            ),
        )
        now_s = trio.current_time()
        if shape[0] != self._told[0] or (queue and now_s - self._queue_told_s >= QUEUE_S):
            self.broker.publish_nowait("queue", _encode(queue))
            self._queue_told_s = now_s
        if shape[1] != self._told[1]:
            self.broker.publish_nowait("server", _encode(event))
        self._told = shape

    def _watched(self, is_watched: bool) -> None:
        self._ledger.watcher = self if is_watched else None
        self._dirty.clear()
        self._moved.clear()
        self._told_content.clear()
        self._told = b"", b""
        if is_watched:
            self._told_content.update(self._ledger.live)


def _workless(replicas: tuple[ReplicaState, ...]) -> tuple[ReplicaState, ...]:
    """What is left to do changes with every token, and is told along with something else."""
    return tuple(replace(replica, work_tokens=0) for replica in replicas)


def _timeless(server: views.Server) -> views.Server:
    return msgspec.structs.replace(server, uptime_s=0.0, step_age_s=None)
