"""How full the server is, and was: speeds of the last seconds, and the last hour in buckets.

Looked at once a second, whoever watches: what is to be seen of the last hour must have been kept. It is kept
within a bound, some hundred numbers of each ten seconds at most, whatever goes on.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil

import trio

from corral.books.ledger import Refusal, Tokens
from corral.books.record import Record
from corral.serving.models import Models
from corral.watching import views

SAMPLE_S = 1.0
RECENT_S = 2.0
"""Speeds are those of so long."""
BUCKET_S = 10.0
BUCKETS = 360
"""An hour."""
MOST_ENDS = 128
"""Of the requests that end in a bucket, the figures of so many are kept for its percentiles."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The sums at a moment."""

    at_s: float
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class Speeds:
    """Of all requests together, in tokens per second: prompts computed, and answers."""

    prefill: float = 0.0
    decode: float = 0.0


@dataclass(slots=True)
class Kept:
    """At most MOST_ENDS numbers, each of those that came with the same chance to be among them."""

    numbers: list[float] = field(default_factory=list)
    seen: int = 0

    def add(self, number: float) -> None:
        self.seen += 1
        if len(self.numbers) < MOST_ENDS:
            self.numbers.append(number)
        elif (place := random.randrange(self.seen)) < MOST_ENDS:
            self.numbers[place] = number

    def percentile(self, share: float) -> float | None:
        """The nearest-rank percentile; None where nothing came."""
        return percentile(self.numbers, share)


@dataclass(slots=True)
class Gathering:
    """The bucket that is being filled."""

    began: Sample
    looks: int = 0
    busy: int = 0
    waiting: int = 0
    context_tokens: int = 0
    refused: int = 0
    queue_ms: Kept = field(default_factory=Kept)
    ttft_ms: Kept = field(default_factory=Kept)
    decode_tok_s: Kept = field(default_factory=Kept)


class Load:
    """Told of requests that end by the ledger; `run` looks at those that have not."""

    def __init__(self, models: Models) -> None:
        self.on_look: list[Callable[[], None]] = []
        """Called every second. May not block or raise."""
        self.on_bucket: list[Callable[[views.Bucket], None]] = []
        """Called with every bucket that is full. May not block or raise."""
        self._models = models
        self._ledger = models.ledger
        first = self._sample()
        self._samples: deque[Sample] = deque([first])
        self._gathering = Gathering(first)
        self._buckets: deque[views.Bucket] = deque(maxlen=BUCKETS)
        self.hour = views.Hour.of(BUCKET_S, self._buckets)
        """The buckets that are kept, oldest first, by column."""

    async def run(self) -> None:
        """Look once a second, until cancelled."""
        while True:
            await trio.sleep(SAMPLE_S)
            self.look()

    def look(self) -> None:
        """Take note of what is going on now; synchronous."""
        sample, gathering = self._sample(), self._gathering
        self._samples.append(sample)
        while len(self._samples) > 2 and self._samples[1].at_s <= sample.at_s - RECENT_S:
            self._samples.popleft()
        gathering.looks += 1
        gathering.busy += self.busy
        gathering.waiting = max(gathering.waiting, self._models.waiting)
        gathering.context_tokens = max(gathering.context_tokens, self.context_tokens)
        # A look may come late, and never comes early: ten of them may take a little more than ten seconds.
        if sample.at_s - gathering.began.at_s >= BUCKET_S - SAMPLE_S / 2:
            bucket = self._bucket(sample)
            self._buckets.append(bucket)
            self.hour = views.Hour.of(BUCKET_S, self._buckets)
            self._gathering = Gathering(sample)
            for tell in self.on_bucket:
                tell(bucket)
        for notice in self.on_look:
            notice()

    def settled(self, record: Record) -> None:
        """For the ledger's `on_settled`."""
        life, gathering = record.life, self._gathering
        if life.admitted_s is not None:
            gathering.queue_ms.add(1e3 * life.spent_s()["queued"])
        if life.ttft_s is not None:
            gathering.ttft_ms.add(1e3 * life.ttft_s)
        if record.decode_tokens_per_s:
            gathering.decode_tok_s.add(record.decode_tokens_per_s)

    def refused(self, _refusal: Refusal) -> None:
        """For the ledger's `on_refused`."""
        self._gathering.refused += 1

    @property
    def busy(self) -> int:
        """Slots that hold a sequence."""
        return max(0, self._models.capacity.slots - self._models.free_slots)

    @property
    def context_tokens(self) -> int:
        """Of the KV cache, what those that run have taken, as the books have it."""
        holdings = self._models.holdings
        if holdings is not None:
            return holdings.running_tokens
        running = (record for record in self._ledger.live.values() if record.life.held)
        return sum(
            record.counts.done_tokens(choice) + record.counts.said_tokens(choice)
            for record in running
            for choice in range(record.request.n)
        )

    @property
    def speeds(self) -> Speeds:
        """Over the last RECENT_S, as of the last look."""
        first, last = self._samples[0], self._samples[-1]
        return _speeds(first, last)

    def _sample(self) -> Sample:
        return Sample(self._ledger.now_s(), self._ledger.tokens)

    def _bucket(self, end: Sample) -> views.Bucket:
        gathering = self._gathering
        speeds = _speeds(gathering.began, end)
        return views.Bucket(
            at=round(self._ledger.unix_s()),
            busy=round(gathering.busy / gathering.looks, 1),
            waiting=gathering.waiting,
            context_tokens=gathering.context_tokens,
            refused=gathering.refused,
            prefill_tok_s=round(speeds.prefill, 1),
            decode_tok_s=round(speeds.decode, 1),
            ended=gathering.ttft_ms.seen,
            queue_ms_p50=_rounded(gathering.queue_ms.percentile(0.5)),
            queue_ms_p95=_rounded(gathering.queue_ms.percentile(0.95)),
            ttft_ms_p50=_rounded(gathering.ttft_ms.percentile(0.5)),
            ttft_ms_p95=_rounded(gathering.ttft_ms.percentile(0.95)),
            stream_tok_s_p50=_rounded(gathering.decode_tok_s.percentile(0.5), 1),
            stream_tok_s_p5=_rounded(gathering.decode_tok_s.percentile(0.05), 1),
        )


def percentile(numbers: Sequence[float], share: float) -> float | None:
    """The smallest number that at least so many of them are no greater than; None of none."""
    if not numbers:
        return None
    return sorted(numbers)[max(0, ceil(share * len(numbers)) - 1)]


def _speeds(first: Sample, last: Sample) -> Speeds:
    passed_s = last.at_s - first.at_s
    if passed_s <= 0:
        return Speeds()
    return Speeds(
        max(0, last.tokens.prefilled - first.tokens.prefilled) / passed_s,
        max(0, last.tokens.completion - first.tokens.completion) / passed_s,
    )


def _rounded(number: float | None, digits: int | None = None) -> float | None:
    return None if number is None else round(number, digits)
