"""The server as it is now, for people: read from the books and the service whenever it is asked for."""

import time

from corral import __version__
from corral.books.outcome import Outcome
from corral.engine.contract import ReplicaState, Waste
from corral.serving.service import Service
from corral.watching import views
from corral.watching.history import History
from corral.watching.stall import StallDetector


class Picture:
    """Keeps nothing of its own but the time at which it was made."""

    def __init__(self, service: Service, stall: StallDetector, history: History, *, model: str) -> None:
        self._service = service
        self._ledger = service.ledger
        self._stall = stall
        self._history = history
        self._model = model
        self._began_s = time.monotonic()

    def snapshot(self, viewers: int, evicted: int, *, with_content: bool) -> views.Snapshot:
        """The whole state. `viewers` watch, and `evicted` more have been let go."""
        return views.Snapshot(
            server=self.server(),
            queue=self.queue(),
            requests=[
                views.request(record, with_content=with_content) for record in self._ledger.live.values()
            ],
            recent=self._history.recent(with_content=with_content),
            history=self._history.rows,
            totals=self.totals(evicted),
            subscribers=self.subscribers(viewers, evicted),
            replicas=self.replicas(),
        )

    def server(self) -> views.Server:
        phases = {record.engine_phase for record in self._ledger.live.values()}
        phase: views.Phase = "idle"
        if "prefill" in phases:
            phase = "mixed" if "decode" in phases else "prefill"
        elif "decode" in phases:
            phase = "decode"
        capacity, is_stalled = self._service.capacity, self._stall.is_stalled
        return views.Server(
            version=__version__,
            model=self._model,
            uptime_s=round(time.monotonic() - self._began_s, 1),
            slots=capacity.slots,
            ctx_tokens=capacity.ctx_tokens,
            phase=phase,
            draining=self._service.is_draining,
            stalled=is_stalled,
            failed=self._service.failure is not None,
            shows_content=self._ledger.keeps_content,
            step_age_s=round(self._stall.step_age_s or 0.0, 1) if is_stalled else None,
        )

    def queue(self) -> list[views.Place]:
        """Who waits, in the order in which they will be served."""
        waiting = [
            (record.position, record) for record in self._ledger.live.values() if record.position is not None
        ]
        waiting.sort(key=lambda place: place[0])
        waits_s = self._service.waits_s() if waiting else {}
        return [
            views.Place(
                record.about.id,
                position,
                round(record.life.waited_s, 2),
                _tenths(waits_s.get(record.about.id)),
            )
            for position, record in waiting
        ]

    def totals(self, evicted_viewers: int) -> views.Totals:
        totals = self._ledger.totals
        by_outcome: dict[Outcome, int] = {}
        for (_, outcome), count in totals.by_outcome.items():
            by_outcome[outcome] = by_outcome.get(outcome, 0) + count
        refused_by: dict[int, dict[str, int]] = {}
        for (status, code), count in totals.refused.items():
            refused_by.setdefault(status, {})[code] = count
        return views.Totals(
            requests=sum(by_outcome.values()),
            by_outcome=by_outcome,
            refused=totals.refused.total(),
            refused_by=refused_by,
            prompt_tokens=totals.prompt_tokens,
            cached_tokens=totals.cached_tokens,
            completion_tokens=totals.completion_tokens,
            evicted_subscribers=by_outcome.get("evicted", 0) + evicted_viewers,
            wasted=_wasted(totals.wasted),
        )

    def replicas(self) -> tuple[ReplicaState, ...]:
        """The engines behind this one; none where it computes itself."""
        return tuple(self._service.replicas)

    def subscribers(self, viewers: int, evicted: int) -> views.Subscribers:
        streams = sum(record.about.streams for record in self._ledger.live.values())
        return views.Subscribers(viewers, streams, evicted)


def _tenths(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _wasted(by_outcome: dict[Outcome, Waste]) -> views.Wasted:
    waste = sum(by_outcome.values(), Waste())
    return views.Wasted(
        tokens_after_disconnect=waste.decoded_after_cancel,
        prefill_tokens_dropped=waste.prefill_dropped,
        prefill_tokens_kept=waste.prefill_kept,
        by_outcome=by_outcome,
    )
