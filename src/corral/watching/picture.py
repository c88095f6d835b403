"""The server as it is now, for people: read from the books and the models whenever it is asked for."""

import time

from corral import __version__
from corral.books.ledger import Share
from corral.books.outcome import Outcome
from corral.books.record import Record
from corral.engine.contract import ReplicaState, Waste
from corral.serving.models import Model, Models
from corral.serving.service import Service
from corral.watching import views
from corral.watching.history import History
from corral.watching.load import Load
from corral.watching.memory import machine_bytes, resident_bytes
from corral.watching.stall import StallDetector

MEMORY_STEP_BYTES = 2**20
"""Of what the process takes, no less is worth telling."""


class Picture:
    """Keeps nothing of its own but the time at which it was made."""

    def __init__(self, models: Models, stall: StallDetector, history: History, load: Load) -> None:
        self._models = models
        self._ledger = models.ledger
        self._stall = stall
        self._history = history
        self._load = load
        self._machine_bytes = machine_bytes()
        self._began_s = time.monotonic()

    def snapshot(self, viewers: int, evicted: int, *, with_content: bool) -> views.Snapshot:
        """The whole state. `viewers` watch, and `evicted` more have been let go."""
        return views.Snapshot(
            server=self.server(),
            load=self.load(),
            queue=self.queue(),
            requests=[
                views.request(record, with_content=with_content) for record in self._ledger.live.values()
            ],
            recent=self._history.recent(with_content=with_content),
            history=self._history.rows,
            refusals=self._history.refusals,
            hour=self._load.hour,
            totals=self.totals(evicted),
            subscribers=self.subscribers(viewers, evicted),
            replicas=self.replicas(),
            models=self.models(),
        )

    @property
    def phase(self) -> views.Phase:
        """What the engine does, in a word."""
        phases = {record.engine_phase for record in self._ledger.live.values()}
        if "prefill" in phases:
            return "mixed" if "decode" in phases else "prefill"
        return "decode" if "decode" in phases else "idle"

    def server(self) -> views.Server:
        """What it is, and how it is."""
        capacity, is_stalled = self._models.capacity, self._stall.is_stalled
        holdings = self._models.holdings
        return views.Server(
            version=__version__,
            model=self._models.name,
            uptime_s=round(time.monotonic() - self._began_s, 1),
            slots=capacity.slots,
            ctx_tokens=capacity.ctx_tokens,
            queue_limit=self._models.queue_limit,
            phase=self.phase,
            draining=self._models.is_draining,
            stalled=is_stalled,
            failed=self._models.failure is not None,
            shows_content=self._ledger.keeps_content,
            step_age_s=round(self._stall.step_age_s or 0.0, 1) if is_stalled else None,
            machine_bytes=self._machine_bytes,
            saved_limit_bytes=None if holdings is None else holdings.saved_limit_bytes,
        )

    def load(self) -> views.Load:
        """How full it is."""
        load, holdings, memory = self._load, self._models.holdings, resident_bytes()
        speeds = load.speeds
        return views.Load(
            busy=load.busy,
            waiting=self._models.waiting,
            context_tokens=load.context_tokens,
            prefill_tok_s=round(speeds.prefill, 1),
            decode_tok_s=round(speeds.decode, 1),
            memory_bytes=memory and memory & ~(MEMORY_STEP_BYTES - 1),
            kept_tokens=None if holdings is None else holdings.kept_tokens,
            kept_bytes=None if holdings is None else holdings.kept_bytes,
            saved_bytes=None if holdings is None else holdings.saved_bytes,
        )

    def condition(self) -> tuple[object, ...]:
        """What must be told at once of how it is; cheap."""
        states = tuple(replica.state for replica in self._models.replicas)
        there = tuple(service.residence for service in self._models.services)
        failed = self._models.failure is not None
        return self._models.is_draining, self._stall.is_stalled, failed, states, there

    def places(self) -> list[tuple[str, int]]:
        """Who waits, and in which place, in the order in which they will be served; cheap."""
        return [(record.about.id, record.position or 0) for record in self._waiting()]

    def queue(self) -> list[views.Place]:
        """As `places`, with the estimates."""
        waiting = self._waiting()
        waits_s = self._models.waits_s() if waiting else {}
        return [
            views.Place(
                record.about.id,
                record.position or 0,
                round(record.life.waited_s, 2),
                _tenths(waits_s.get(record.about.id)),
            )
            for record in waiting
        ]

    def _waiting(self) -> list[Record]:
        waiting = [record for record in self._ledger.live.values() if record.position is not None]
        return sorted(waiting, key=lambda record: record.position or 0)

    def totals(self, evicted_viewers: int) -> views.Totals:
        totals, tokens = self._ledger.totals, self._ledger.tokens
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
            prompt_tokens=tokens.prompt,
            cached_tokens=tokens.cached,
            completion_tokens=tokens.completion,
            evicted_subscribers=by_outcome.get("evicted", 0) + evicted_viewers,
            wasted=_wasted(totals.wasted),
        )

    def replicas(self) -> tuple[ReplicaState, ...]:
        """The engines behind this one; none where it computes itself."""
        return tuple(self._models.replicas)

    def models(self) -> tuple[views.Model, ...]:
        """Each by itself; none where there is one, and that is always there."""
        if not self._models.come_or_go:
            return ()
        return tuple(map(self._model, self._models))

    def _model(self, model: Model) -> views.Model:
        service, residence = model.service, model.service.residence
        share = self._ledger.totals.by_model.get(model.name, Share())
        tokens = share.tokens + service.live_tokens
        failure = service.failure
        reason = failure.message if failure is not None else residence.reason if residence is not None else ""
        return views.Model(
            name=model.name,
            state=_state_of(service),
            slots=service.capacity.slots,
            busy=max(0, service.capacity.slots - service.free_slots),
            waiting=service.waiting,
            live=service.live,
            requests=share.requests,
            prompt_tokens=tokens.prompt,
            completion_tokens=tokens.completion,
            memory_bytes=None if residence is None else residence.memory_bytes,
            reason=reason or None,
        )

    def subscribers(self, viewers: int, evicted: int) -> views.Subscribers:
        streams = sum(record.about.streams for record in self._ledger.live.values())
        return views.Subscribers(viewers, streams, evicted)


def _state_of(service: Service) -> views.ModelState:
    if service.failure is not None:
        return "failed"
    if service.residence is not None:
        return service.residence.state
    return "elsewhere" if service.replicas else "loaded"


def _tenths(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _wasted(by_outcome: dict[Outcome, Waste]) -> views.Wasted:
    waste = sum(by_outcome.values(), Waste())
    return views.Wasted(
        tokens_after_disconnect=waste.decoded_after_cancel,
        prefill_tokens_dropped=waste.prefill_dropped,
        prefill_tokens_kept=waste.prefill_kept,
        tokens_thrown_away=waste.thrown_away,
        by_outcome=by_outcome,
    )
