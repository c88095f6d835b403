"""/metrics: the ledger in Prometheus' words.

Counters and gauges are read from the ledger when they are scraped; only the distributions are kept here, and
they are fed when a request is settled. So nothing is counted twice, and /metrics and /status cannot disagree.
"""

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from corral import __version__
from corral.books.ledger import Share
from corral.books.life import STATES
from corral.books.record import Record
from corral.engine.contract import ReplicaState
from corral.request import HELD_TO
from corral.serving.models import Models
from corral.serving.service import Service
from corral.watching.broker import Broker
from corral.watching.stall import StallDetector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
TOKENS_PER_SECOND = (1, 2, 5, 10, 20, 35, 50, 75, 100, 200, 500, 1000, 2000, 5000)


class Metrics:
    """One server's metrics."""

    def __init__(self, models: Models, stall: StallDetector, broker: Broker) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_LedgerCollector(models, stall, broker))
        self._spent = Histogram(
            "corral_request_state_seconds",
            "Time that requests spent until their prompt was written (preparing), waiting for a slot "
            "(queued), until their first token (prefill), until the engine ended them (decode) and with a "
            "write that waited for the client (write).",
            ["state"],
            buckets=SECONDS,
            registry=self._registry,
        )
        for state in STATES:
            self._spent.labels(state)
        self._duration = self._seconds(
            "corral_request_duration_seconds", "Time from a request's acceptance to the end of its response."
        )
        self._ttft = self._seconds(
            "corral_time_to_first_token_seconds", "Time from a request's acceptance to its first token."
        )
        self._prefill_rate = self._rate(
            "corral_prefill_tokens_per_second",
            "Prefill speed by request, over the prompt tokens that were really computed.",
        )
        self._decode_rate = self._rate(
            "corral_decode_tokens_per_second", "Decode speed by request, after the first token."
        )

    def expose(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that an Accept header asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _seconds(self, name: str, documentation: str) -> Histogram:
        return Histogram(name, documentation, buckets=SECONDS, registry=self._registry)

    def _rate(self, name: str, documentation: str) -> Histogram:
        return Histogram(name, documentation, buckets=TOKENS_PER_SECOND, registry=self._registry)

    def settled(self, record: Record) -> None:
        """For the ledger's `on_settled`."""
        life = record.life
        for state, spent_s in life.spent_s().items():
            self._spent.labels(state).observe(spent_s)
        self._duration.observe(life.total_s)
        if life.ttft_s is not None:
            self._ttft.observe(life.ttft_s)
        if record.prefill_tokens_per_s:
            self._prefill_rate.observe(record.prefill_tokens_per_s)
        if record.decode_tokens_per_s:
            self._decode_rate.observe(record.decode_tokens_per_s)


class _LedgerCollector(Collector):
    def __init__(self, models: Models, stall: StallDetector, broker: Broker) -> None:
        self._models = models
        self._stall = stall
        self._broker = broker

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "corral", "What this server is.", value={"version": __version__, "model": self._models.name}
        )
        yield from self._now()
        yield from self._requests()
        yield from self._tokens()
        yield from self._waste()
        yield from self._replicas()
        if self._models.come_or_go:
            yield from self._by_model()

    def _now(self) -> Iterator[Metric]:
        states = dict.fromkeys(STATES, 0)
        for record in self._models.ledger.live.values():
            states[record.life.engine_state] += 1
        live = GaugeMetricFamily("corral_requests_live", "Requests by state, now.", labels=["state"])
        for state, count in states.items():
            live.add_metric([state], count)
        yield live
        slots = self._models.capacity.slots
        yield GaugeMetricFamily("corral_slots", "Sequences that can run at the same time.", slots)
        yield GaugeMetricFamily(
            "corral_slots_busy", "Slots that hold a sequence, now.", slots - self._models.free_slots
        )
        yield GaugeMetricFamily(
            "corral_engine_step_age_seconds",
            "How long the running engine step has lasted; 0 if none runs.",
            self._stall.step_age_s or 0.0,
        )
        yield GaugeMetricFamily(
            "corral_engine_stalled",
            "1 while an engine step takes longer than stall_s.",
            int(self._stall.is_stalled),
        )
        yield GaugeMetricFamily(
            "corral_engine_failed",
            "1 while nothing can be generated.",
            int(self._models.failure is not None),
        )
        yield GaugeMetricFamily(
            "corral_draining", "1 while the server shuts down.", int(self._models.is_draining)
        )
        yield GaugeMetricFamily("corral_status_viewers", "Readers of /status/events.", self._broker.viewers)
        yield CounterMetricFamily(
            "corral_status_viewers_evicted",
            "Readers of /status/events that were dropped because they did not read.",
            self._broker.evicted,
        )

    def _requests(self) -> Iterator[Metric]:
        totals = self._models.ledger.totals
        ended = CounterMetricFamily(
            "corral_requests", "Requests that are over, by API and how they ended.", labels=["api", "outcome"]
        )
        for (api, outcome), count in totals.by_outcome.items():
            ended.add_metric([api, outcome], count)
        yield ended
        yield CounterMetricFamily(
            "corral_requests_with_tools", "Of these, requests with tools.", totals.with_tools
        )
        held = CounterMetricFamily(
            "corral_requests_held",
            "Of these, requests whose answer had to follow a grammar, by its kind; tools: only its calls.",
            labels=["kind"],
        )
        for kind in HELD_TO:
            held.add_metric([kind], totals.held_to[kind])
        yield held
        refused = CounterMetricFamily(
            "corral_requests_refused",
            "Requests that were refused, at the door or for their prompt, by HTTP status and error.",
            labels=["status", "code"],
        )
        for (status, code), count in totals.refused.items():
            refused.add_metric([str(status), code], count)
        yield refused

    def _tokens(self) -> Iterator[Metric]:
        """Of the requests that run too: a rate over a minute must not wait for an answer of two."""
        tokens = self._models.ledger.tokens
        yield CounterMetricFamily("corral_prompt_tokens", "Prompt tokens of requests.", tokens.prompt)
        yield CounterMetricFamily(
            "corral_prompt_tokens_cached", "Of these, tokens that were reused.", tokens.cached
        )
        yield CounterMetricFamily(
            "corral_prompt_tokens_computed", "Of these, tokens that were computed.", tokens.prefilled
        )
        yield CounterMetricFamily("corral_completion_tokens", "Tokens generated.", tokens.completion)
        yield CounterMetricFamily(
            "corral_draft_tokens", "Tokens that speculative decoding proposed.", tokens.drafted
        )
        yield CounterMetricFamily(
            "corral_draft_tokens_accepted", "Of these, tokens that were right.", tokens.accepted
        )
        yield CounterMetricFamily(
            "corral_reasoning_tokens", "Of the generated tokens, thoughts.", tokens.reasoning
        )
        yield CounterMetricFamily(
            "corral_tool_calls", "Calls of tools that answers have begun.", tokens.calls
        )
        yield CounterMetricFamily("corral_vectors", "Vectors that were made of texts.", tokens.vectors)

    def _waste(self) -> Iterator[Metric]:
        wasted = CounterMetricFamily(
            "corral_wasted_tokens",
            "Tokens computed for nobody: decoded after the request had ended, prefill that was dropped, or "
            "an answer that broke off and was said anew.",
            labels=["kind", "outcome"],
        )
        kept = CounterMetricFamily(
            "corral_prefill_tokens_kept",
            "Tokens of a prefill that was cut short, kept for the next request with that prefix.",
            labels=["outcome"],
        )
        residual = CounterMetricFamily(
            "corral_residual_seconds",
            "Seconds for which upstreams were seen to go on for requests that had left.",
            labels=["outcome"],
        )
        for outcome, waste in self._models.ledger.totals.wasted.items():
            wasted.add_metric(["decode", outcome], waste.decoded_after_cancel)
            wasted.add_metric(["prefill", outcome], waste.prefill_dropped)
            wasted.add_metric(["again", outcome], waste.thrown_away)
            kept.add_metric([outcome], waste.prefill_kept)
            residual.add_metric([outcome], waste.residual_s)
        yield wasted
        yield kept
        yield residual

    def _replicas(self) -> Iterator[Metric]:
        replicas = [(model.name, replica) for model in self._models for replica in model.service.replicas]
        labels = ["model"] if self._models.are_several else []
        if not replicas:
            return
        gauges: dict[str, tuple[str, Callable[[ReplicaState], float]]] = {
            "slots": ("Sequences that a replica takes at a time.", lambda replica: replica.slots),
            "in_flight": ("Sequences that a replica has, now.", lambda replica: replica.in_flight),
            "in_service": (
                "1 while a replica is given requests.",
                lambda replica: replica.state == "in service",
            ),
            "work_tokens": (
                "Work that is left at a replica, in prompt tokens, as routing counts.",
                lambda replica: replica.work_tokens,
            ),
        }
        counters: dict[str, tuple[str, Callable[[ReplicaState], float]]] = {
            "sequences": ("Sequences that a replica has had.", lambda replica: replica.served),
            "affinity_hits": (
                "Of these, sequences whose beginning a replica had computed before.",
                lambda replica: replica.affinity_hits,
            ),
            "openings": ("How often a replica was given up.", lambda replica: replica.openings),
            "residual_seconds": (
                "Seconds of a replica's slots that were seen to go to requests that had left.",
                lambda replica: replica.residual_s,
            ),
        }
        families: tuple[tuple[type[GaugeMetricFamily | CounterMetricFamily], Any], ...] = (
            (GaugeMetricFamily, gauges),
            (CounterMetricFamily, counters),
        )
        for family, figures in families:
            for name, (about, value) in figures.items():
                metric = family(f"corral_replica_{name}", about, labels=["replica", *labels])
                for model, replica in replicas:
                    metric.add_metric([replica.name, *([model] if labels else [])], value(replica))
                yield metric

    def _by_model(self) -> Iterator[Metric]:
        models = [(model.name, model.service) for model in self._models]
        by_model = self._models.ledger.totals.by_model
        gauges: dict[str, tuple[str, Callable[[Service], float]]] = {
            "slots": ("Sequences of a model that can run at the same time.", lambda it: it.capacity.slots),
            "slots_busy": (
                "Slots of a model that hold a sequence, now.",
                lambda it: it.capacity.slots - it.free_slots,
            ),
            "requests_waiting": ("Requests that wait for a slot of a model, now.", lambda it: it.waiting),
            "loaded": ("1 while a model is in memory, or elsewhere.", lambda it: it.is_there),
            "failed": ("1 while nothing can be generated by a model.", lambda it: it.failure is not None),
            "memory_bytes": (
                "What a model takes of the memory while it is there, as estimated; 0 if that is not known.",
                lambda it: 0 if it.residence is None else it.residence.memory_bytes,
            ),
        }
        for name, (about, value) in gauges.items():
            gauge = GaugeMetricFamily(f"corral_model_{name}", about, labels=["model"])
            for model, service in models:
                gauge.add_metric([model], value(service))
            yield gauge
        counters: dict[str, tuple[str, Callable[[Share], float]]] = {
            "requests": ("Requests to a model that are over.", lambda share: share.requests),
            "prompt_tokens": ("Their prompt tokens.", lambda share: share.tokens.prompt),
            "completion_tokens": ("Tokens generated for them.", lambda share: share.tokens.completion),
        }
        for name, (about, of) in counters.items():
            counter = CounterMetricFamily(f"corral_model_{name}", about, labels=["model"])
            for model, _ in models:
                counter.add_metric([model], of(by_model.get(model, Share())))
            yield counter
