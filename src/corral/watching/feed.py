"""From the ledger to the viewers of /status, as it happens.

While somebody watches, the ledger tells this class of every change. A change of state goes out with the next
batch, counters every `COUNTERS_S`, and of a request only what has changed. Text goes out at once, up to
TEXTS_PER_S events; where more is said than that, what one request says is gathered. So a viewer costs no
more bytes per second than it can read, however quick the model is. The server's own figures come every
second while something is going on, and every `SILENCE_S` at least, so that a page knows by silence that
nobody is there any more. While nobody watches, this hears only of requests that are over.
"""

from collections.abc import Callable
from math import inf
from typing import Any

import msgspec
import trio

from corral.books.ledger import Ledger, Refusal
from corral.books.record import Record
from corral.events import Sampled
from corral.watching import views
from corral.watching.broker import Broker
from corral.watching.history import History
from corral.watching.picture import Picture

TEXTS_PER_S = 250.0
TEXTS_PER_REQUEST_S = 5.0
"""With more requests than that gives so many events each, there are so many of each."""
TEXTS_AT_ONCE = 16.0
COUNTERS_S = 0.2
PHASE_S = 0.25
"""How often a change of what the server does is worth an event of its own."""
SERVER_S = 1.0
SILENCE_S = 5.0
QUEUE_S = 1.0
"""How often estimates of a wait are sent while nobody's place has changed."""
PLACE_S = 0.01
"""A queue is sent again at the earliest after so long for each that waits: it is sent whole."""
REFUSALS_S = 0.5
MOST_REFUSALS = 10
"""Of those that came in a REFUSALS_S, so many of the last are told."""

_encode = msgspec.json.Encoder().encode

Block = tuple[Record, int, int]
"""The block of an answer: of which request, of which choice, and its number."""


class Feed:
    """A `Watcher` of the ledger, while there are viewers; `broker` has them."""

    def __init__(self, ledger: Ledger, picture: Picture, history: History) -> None:
        self._ledger = ledger
        self._picture = picture
        self._history = history
        self._dirty: set[Record] = set()
        self._moved: set[Record] = set()
        self._texts: dict[Block, list[str]] = {}
        self._drafts: dict[tuple[Record, int], Sampled] = {}
        self._told_of: dict[str, dict[str, Any]] = {}
        """By request, the last of each field that was sent."""
        self._told_content: set[str] = set()
        self._stalled: set[str] = set()
        self._refused = 0
        """How many of the last refusals have not been told."""
        self._allowance, self._allowed_s = TEXTS_AT_ONCE, 0.0
        """How many events of text may go out at once, as of then."""
        self._counted_s = self._refusals_told_s = -inf
        self._server_told_s = self._queue_told_s = -inf
        self._told_server: views.ServerEvent | None = None
        self._told_phase = ""
        self._told_condition: tuple[object, ...] = ()
        self._told_queue: list[tuple[str, int]] = []
        self.broker = Broker(
            self._snapshot, self._collect, complete=self._tell_texts, on_watched=self._watched
        )

    def snapshot(self, *, with_content: bool) -> views.Snapshot:
        """The whole state, as of now."""
        broker = self.broker
        return self._picture.snapshot(broker.viewers, broker.evicted, with_content=with_content)

    def close(self) -> None:
        """The server shuts down: viewers are told all that there is to tell, and their streams end."""
        self._counted_s = self._refusals_told_s = -inf
        self._server_told_s = self._queue_told_s = -inf
        self._tell_texts()
        self.broker.close()

    # What the ledger tells

    def changed(self, record: Record, *, at_once: bool) -> None:
        (self._moved if at_once else self._dirty).add(record)
        self.broker.wake()

    def said(self, record: Record, choice: int, number: int, text: str) -> None:
        self._texts.setdefault((record, choice, number), []).append(text)
        self.broker.wake()

    def drafted(self, record: Record, choice: int, step: Sampled) -> None:
        self._drafts[record, choice] = step
        self.broker.wake()

    def settled(self, record: Record) -> None:
        """For the ledger's `on_settled`: into the history, and to who watches."""
        row = self._history.add(record, with_content=self._ledger.keeps_content)
        self._refused += row.outcome == "refused"
        if not self.broker.viewers:
            return
        self._tell_texts(record)
        self._tell_if_moved(record)
        self._moved.discard(record)
        self._dirty.discard(record)
        self._told_content.discard(record.about.id)
        self._stalled.discard(record.about.id)
        self._told_of.pop(record.about.id, None)
        self.broker.publish_nowait("finished", _encode(row))

    def refused(self, refusal: Refusal) -> None:
        """For the ledger's `on_refused`."""
        self._history.refused(refusal, self._ledger.unix_s())
        self._refused += 1
        self.broker.wake()

    # What the load tells

    def looked(self) -> None:
        """Time has passed: it shows in those whose clients do not read, of which nobody else would say so."""
        if not self.broker.viewers:
            return
        for id, record in self._ledger.live.items():
            write_s = record.life.write_s
            is_stalled = write_s is not None and write_s >= views.STALLED_S
            if is_stalled or id in self._stalled:
                self._dirty.add(record)
                (self._stalled.add if is_stalled else self._stalled.discard)(id)
        self.broker.wake()

    def filled(self, bucket: views.Bucket) -> None:
        """Ten more seconds of the last hour are over."""
        self.broker.publish_nowait("bucket", _encode(bucket))

    # What the broker asks

    def _snapshot(self, sees_content: bool) -> bytes:
        return _encode(self.snapshot(with_content=sees_content))

    def _collect(self) -> float:
        now_s = trio.current_time()
        for record in tuple(self._moved):
            self._tell(record)
        tell: tuple[tuple[bool, float, Callable[[], None]], ...] = (
            (bool(self._texts or self._drafts), self._texts_due_s(now_s), self._tell_texts),
            (bool(self._dirty), self._counted_s + COUNTERS_S, self._tell_counters),
            (bool(self._refused), self._refusals_told_s + REFUSALS_S, self._tell_refusals),
        )
        due_s = min(self._tell_of_queue(now_s), self._tell_of_server(now_s))
        for is_something, at_s, telling in tell:
            if is_something and now_s >= at_s:
                telling()
            elif is_something:
                due_s = min(due_s, at_s)
        return due_s

    def _tell_if_moved(self, record: Record) -> None:
        if record in self._moved:
            self._tell(record)

    def _tell(self, record: Record) -> None:
        """All that is known of a request but its output, which the tokens tell."""
        self._moved.discard(record)
        self._tell_changes(record, views.request(record, with_content=False))
        if self._ledger.keeps_content and record.about.id not in self._told_content:
            self._told_content.add(record.about.id)
            self.broker.publish_nowait("request", _encode(views.content(record)), is_content=True)

    def _tell_counters(self) -> None:
        self._counted_s = trio.current_time()
        for record in self._dirty:
            self._tell_changes(record, views.counters(record))
        self._dirty.clear()

    def _tell_changes(self, record: Record, view: views.Counters) -> None:
        """What of it has changed since it was last told."""
        told = self._told_of.setdefault(record.about.id, {})
        changes = {
            name: value for name, value in msgspec.structs.asdict(view).items() if told.get(name) != value
        }
        if changes:
            told.update(changes)
            self.broker.publish_nowait("request", _encode({"id": record.about.id, **changes}))

    def _tell_texts(self, of: Record | None = None) -> None:
        """What was said and guessed and is not told yet, by one request, or by all."""
        if of is None:
            texts, self._texts = self._texts, {}
            drafts, self._drafts = self._drafts, {}
        else:
            texts = {block: self._texts.pop(block) for block in tuple(self._texts) if block[0] is of}
            drafts = {place: self._drafts.pop(place) for place in tuple(self._drafts) if place[0] is of}
        self._allowance -= len(texts) + len(drafts)
        for (record, choice, number), pieces in texts.items():
            self._tell_if_moved(record)  # its messages and its start come before its text
            token = views.token(record, choice, number, "".join(pieces))
            self.broker.publish_nowait("token", _encode(token), is_content=True)
        for (record, choice), step in drafts.items():
            self._tell_if_moved(record)
            draft = views.draft(record.about.id, choice, step)
            self.broker.publish_nowait("draft", _encode(draft), is_content=True)

    def _texts_due_s(self, now_s: float) -> float:
        """When there may be more text: a bucket of tokens, which fills as time goes on."""
        per_s = max(TEXTS_PER_S, TEXTS_PER_REQUEST_S * len(self._ledger.live))
        self._allowance = min(TEXTS_AT_ONCE, self._allowance + per_s * (now_s - self._allowed_s))
        self._allowed_s = now_s
        return now_s + max(0.0, 1 - self._allowance) / per_s

    def _tell_refusals(self) -> None:
        self._refusals_told_s = trio.current_time()
        news = self._history.refusals[-min(self._refused, MOST_REFUSALS) :]
        self._refused = 0
        self.broker.publish_nowait("refusals", _encode(news))

    def _tell_of_queue(self, now_s: float) -> float:
        """Who waits: as places change, and the estimates once a second; when it is to be looked at again."""
        places = self._picture.places()
        if not places and not self._told_queue:
            return inf
        have_changed = places != self._told_queue
        due_s = self._queue_told_s + (max(PLACE_S * len(places), COUNTERS_S) if have_changed else QUEUE_S)
        if now_s < due_s and places:
            return due_s
        self.broker.publish_nowait("queue", _encode(self._picture.queue()))
        self._told_queue, self._queue_told_s = places, now_s
        return now_s + QUEUE_S if places else inf

    def _tell_of_server(self, now_s: float) -> float:
        """What the server does and how full it is; when it is to be looked at again."""
        phase, condition = self._picture.phase, self._picture.condition()
        due_s = self._server_told_s + (SERVER_S if phase == self._told_phase else PHASE_S)
        if now_s < due_s and condition == self._told_condition:
            return due_s
        viewers, evicted = self.broker.viewers, self.broker.evicted
        event = views.ServerEvent(
            self._picture.server(),
            self._picture.load(),
            self._picture.totals(evicted),
            self._picture.subscribers(viewers, evicted),
            self._picture.replicas(),
            self._picture.models(),
        )
        shape = msgspec.structs.replace(event, server=_timeless(event.server))
        if shape != self._told_server or now_s >= self._server_told_s + SILENCE_S:
            self.broker.publish_nowait("server", _encode(event))
            self._server_told_s, self._told_server = now_s, shape
            self._told_phase, self._told_condition = phase, condition
            return now_s + SERVER_S
        return min(now_s + SERVER_S, self._server_told_s + SILENCE_S)

    def _watched(self, is_watched: bool) -> None:
        self._ledger.watcher = self if is_watched else None
        self._dirty.clear()
        self._moved.clear()
        self._texts.clear()
        self._drafts.clear()
        self._told_of.clear()
        self._told_content.clear()
        self._stalled.clear()
        self._refused = 0
        self._told_server, self._told_phase, self._told_condition, self._told_queue = None, "", (), []
        if is_watched:
            self._told_content.update(self._ledger.live)


def _timeless(server: views.Server) -> views.Server:
    return msgspec.structs.replace(server, uptime_s=0.0, step_age_s=None)
