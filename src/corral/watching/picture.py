"""The live picture of the server, from the ledger to the viewers of /status.

While somebody watches, the ledger tells this class of every change. Text goes on at once, counters at most
every `COUNTERS_S`, changes of state with the next batch. While nobody does, this hears only of requests that
are over: it keeps the history.
"""

import time
from collections import deque
from math import inf

import msgspec
import trio

from corral import __version__
from corral.books.ledger import Ledger
from corral.books.record import Outcome, Record, Waste
from corral.engine.contract import Engine
from corral.events import Sampled
from corral.serving.generation import Service
from corral.watching import views
from corral.watching.broker import Broker
from corral.watching.stall import StallDetector

HISTORY = 50
RECENT = 8
"""How many of the finished requests are shown whole, with their content where content is kept at all."""
COUNTERS_S = 0.1

_encode = msgspec.json.Encoder().encode


class Status:
    """A `Watcher` of the ledger, and what a broker needs to keep its viewers up to date."""

    def __init__(self, service: Service, engine: Engine, stall: StallDetector, *, model: str) -> None:
        self._service = service
        self._engine = engine
        self._ledger: Ledger = service.ledger
        self._stall = stall
        self._model = model
        self._began_s = time.monotonic()
        self._history: deque[views.Row] = deque(maxlen=HISTORY)
        self._recent: deque[views.Request] = deque(maxlen=RECENT)
        self._dirty: set[Record] = set()
        self._moved: set[Record] = set()
        self._told_content: set[str] = set()
        self._counted_s = -inf
        self._told: tuple[bytes, bytes] = b"", b""
        self.broker = Broker(self._snapshot, self._collect)
        self.broker.on_watched = self._watched
        self._ledger.on_settled.append(self._keep)
        stall.on_change.append(self.broker.wake)
        service.on_draining.append(self.broker.wake)

    def snapshot(self, *, with_content: bool) -> views.Snapshot:
        """The whole state, as of now."""
        recent = list(self._recent)
        if not with_content:
            recent = [
                msgspec.structs.replace(each, messages=None, output=None, draft=None) for each in recent
            ]
        return views.Snapshot(
            server=self._server(),
            queue=self._queue(),
            requests=[
                views.request(record, with_content=with_content) for record in self._ledger.live.values()
            ],
            recent=recent,
            history=list(self._history),
            totals=self._totals(),
            subscribers=self._subscribers(),
        )

    # What the ledger tells

    def changed(self, record: Record, *, at_once: bool) -> None:
        (self._moved if at_once else self._dirty).add(record)
        self.broker.wake()

    def said(self, record: Record, choice: int, text: str) -> None:
        if record in self._moved:
            self._tell(record)  # its messages and its start come before its text
        token = views.Token(record.about.id, choice, text)
        self.broker.publish_nowait("token", _encode(token), is_content=True)

    def drafted(self, record: Record, choice: int, step: Sampled) -> None:
        if record in self._moved:
            self._tell(record)
        self.broker.publish_nowait(
            "draft", _encode(views.draft(record.about.id, choice, step)), is_content=True
        )

    def settled(self, record: Record) -> None:
        if record in self._moved:
            self._tell(record)
        self.forgotten(record)
        self.broker.publish_nowait("finished", _encode(self._history[-1]))

    def forgotten(self, record: Record) -> None:
        self._moved.discard(record)
        self._dirty.discard(record)
        self._told_content.discard(record.about.id)

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

    def _tell(self, record: Record) -> None:
        """All that is known of a request but its output, which the tokens tell."""
        self._moved.discard(record)
        self.broker.publish_nowait("request", _encode(views.request(record, with_content=False)))
        if self._ledger.keeps_content and record.about.id not in self._told_content:
            self._told_content.add(record.about.id)
            content = views.Content(record.about.id, views.messages(record))
            self.broker.publish_nowait("request", _encode(content), is_content=True)

    def _tell_of_server(self) -> None:
        """The queue and the server, where they changed in more than the time of day."""
        queue, event = self._queue(), views.ServerEvent(self._server(), self._totals(), self._subscribers())
        shape = (
            _encode([(place.id, place.position) for place in queue]),
            _encode(msgspec.structs.replace(event, server=_timeless(event.server))),
        )
        if shape[0] != self._told[0]:
            self.broker.publish_nowait("queue", _encode(queue))
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

    def _keep(self, record: Record) -> None:
        self._history.append(views.row(record, time.time()))
        self._recent.append(views.request(record, with_content=self._ledger.keeps_content))

    # Parts of the picture

    def _server(self) -> views.Server:
        phases = [record.engine_phase for record in self._ledger.live.values()]
        phase: views.Phase = "idle"
        if "prefill" in phases:
            phase = "mixed" if "decode" in phases else "prefill"
        elif "decode" in phases:
            phase = "decode"
        return views.Server(
            version=__version__,
            model=self._model,
            uptime_s=round(time.monotonic() - self._began_s, 1),
            slots=self._engine.capacity.slots,
            ctx_tokens=self._engine.capacity.ctx_tokens,
            phase=phase,
            draining=self._service.is_draining,
            stalled=self._stall.is_stalled,
            failed=self._service.failure is not None,
            shows_content=self._ledger.keeps_content,
            step_age_s=round(self._stall.step_age_s or 0.0, 1) if self._stall.is_stalled else None,
        )

    def _queue(self) -> list[views.Place]:
        now_s = self._ledger.now_s()
        waiting = [record for record in self._ledger.live.values() if record.position is not None]
        waiting.sort(key=lambda record: record.position or 0)
        return [
            views.Place(
                record.about.id,
                record.position or 0,
                round(now_s - record.accepted_s, 2),
                round(self._service.eta_s(record.position or 0), 1),
            )
            for record in waiting
        ]

    def _totals(self) -> views.Totals:
        totals = self._ledger.totals
        by_outcome: dict[Outcome, int] = {}
        for (_, outcome), count in totals.by_outcome.items():
            by_outcome[outcome] = by_outcome.get(outcome, 0) + count
        return views.Totals(
            requests=sum(by_outcome.values()),
            by_outcome=by_outcome,
            refused=totals.refused.total(),
            prompt_tokens=totals.prompt_tokens,
            cached_tokens=totals.cached_tokens,
            completion_tokens=totals.completion_tokens,
            evicted_subscribers=by_outcome.get("evicted", 0) + self.broker.evicted,
            wasted=_wasted(totals.wasted),
        )

    def _subscribers(self) -> views.Subscribers:
        streams = sum(record.about.streams for record in self._ledger.live.values())
        return views.Subscribers(self.broker.viewers, streams, self.broker.evicted)


def _timeless(server: views.Server) -> views.Server:
    return msgspec.structs.replace(server, uptime_s=0.0, step_age_s=None)


def _wasted(by_outcome: dict[Outcome, Waste]) -> views.Wasted:
    return views.Wasted(
        tokens_after_disconnect=sum(waste.decoded_after_cancel for waste in by_outcome.values()),
        prefill_tokens_dropped=sum(waste.prefill_dropped for waste in by_outcome.values()),
        prefill_tokens_kept=sum(waste.prefill_kept for waste in by_outcome.values()),
        by_outcome=by_outcome,
    )
