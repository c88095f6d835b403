"""How fast one sequence goes beside as many others as there are slots, by those before it and those that run.

Tokens over time, where recent requests count more. A request that had the engine nearly to itself was faster
than it would be in a crowd: a step of twice as many sequences takes up to twice as long. So its time is
stretched by the root of how much more crowded it is when every slot is taken; and since that is a guess, what
was seen in a crowd counts more, by the square of how full it was.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import sqrt

from corral.books.record import Record
from corral.serving.estimate import Speeds

REMEMBERED = 2
"""What was measured fades, for a machine may get slower: a third of its weight is left after as many requests
as there are slots, and so many more."""


@dataclass(frozen=True, slots=True)
class _Rate:
    """Tokens, and the seconds that they took one sequence."""

    tokens: float
    time_s: float

    def plus(self, tokens: float, time_s: float, weight: float) -> "_Rate":
        return _Rate(self.tokens + weight * tokens, self.time_s + weight * time_s)

    def faded(self, share: float) -> "_Rate":
        return _Rate(share * self.tokens, share * self.time_s)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.time_s


@dataclass(frozen=True, slots=True)
class _Rates:
    """Of prompts, of answers, and of texts that are embedded, which another model may compute.

    At first each is a guess that weighs next to nothing: something must be said before the first token.
    """

    prefill: _Rate = _Rate(tokens=2e-1, time_s=1e-3)
    decode: _Rate = _Rate(tokens=1e-2, time_s=1e-3)
    embed: _Rate = _Rate(tokens=2e-1, time_s=1e-3)

    def faded(self, share: float, *, embeds: bool) -> "_Rates":
        """Those of which a request that is over tells something."""
        if embeds:
            return replace(self, embed=self.embed.faded(share))
        return replace(self, prefill=self.prefill.faded(share), decode=self.decode.faded(share))


class Tempo:
    """Told when requests begin and end in the engine. Synchronous; `now_s` is a monotonic clock."""

    def __init__(self, slots: int, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self.resize(slots)
        self._rates = _Rates()
        self._cached_tokens = 0.0
        self._prompt_tokens = 1.0
        self._taken = 0
        self._changed_s = now_s()
        self._slot_seconds = 0.0
        """How many slots were taken, summed up over time: what it grows by in a span is their mean in it."""
        self._began: dict[str, tuple[float, float]] = {}
        """By id, when a running request began, and the slot seconds then."""

    def resize(self, slots: int) -> None:
        """There are so many slots from now on."""
        self._slots = max(1, slots)
        self._fading = 1 - 1 / (self._slots + REMEMBERED)

    def began(self, record: Record) -> None:
        """It has its slots, and the engine has it."""
        self._began[record.about.id] = (self._now_s(), self._advance(record.request.n))

    def released(self, record: Record) -> None:
        """The engine has let go of one of its sequences."""
        self._advance(-1)
        if record.life.held:
            return
        rates = self._rates.faded(self._fading, embeds=record.request.embed is not None)
        self._rates = self._with(record, rates)
        if record.counts.cached_tokens is not None:
            self._cached_tokens = self._fading * self._cached_tokens + record.counts.cached_tokens
            self._prompt_tokens = self._fading * self._prompt_tokens + record.prompt_tokens
        self._began.pop(record.about.id, None)

    @property
    def computed_share(self) -> float:
        """Of a prompt, what is not found in the cache."""
        return max(0.0, 1 - self._cached_tokens / self._prompt_tokens)

    def speeds(self, running: Iterable[Record]) -> Speeds:
        """As of now, with what those that run show of it."""
        self._advance(0)
        rates = self._rates
        for record in running:
            rates = self._with(record, rates)
        return Speeds(rates.prefill.tokens_per_s, rates.decode.tokens_per_s, rates.embed.tokens_per_s)

    def _with(self, record: Record, rates: _Rates) -> _Rates:
        """The rates, and what a request that has begun adds to them."""
        life, counts, sequences = record.life, record.counts, record.request.n
        if life.admitted_s is None or record.about.id not in self._began:
            return rates
        fullness = self._fullness(record)
        stretch, weight = sqrt(1 / fullness), fullness**2
        prefill_s = life.prefill_s
        if prefill_s is None:
            prefill_s = (self._now_s() if life.ended_s is None else life.ended_s) - life.admitted_s
        if record.request.embed is not None:
            return replace(
                rates, embed=rates.embed.plus(counts.prefilled_tokens, prefill_s * stretch, weight)
            )
        prefill, decode = rates.prefill, rates.decode
        prefill = prefill.plus(counts.prefilled_tokens, prefill_s * stretch, weight)
        if life.decode_s is not None:
            decode = decode.plus(counts.decoded_tokens, life.decode_s * sequences * stretch, weight)
        return replace(rates, prefill=prefill, decode=decode)

    def _fullness(self, record: Record) -> float:
        """The share of the slots that was taken, in the mean since it began: at least the one of its own."""
        began_s, slot_seconds = self._began[record.about.id]
        lasted_s = self._now_s() - began_s
        taken = (self._slot_seconds - slot_seconds) / lasted_s if lasted_s > 0 else self._slots
        return min(max(taken, 1.0), self._slots) / self._slots

    def _advance(self, more: int) -> float:
        """Let time pass up to now; so many more slots are taken from now on."""
        now_s = self._now_s()
        self._slot_seconds += self._taken * (now_s - self._changed_s)
        self._changed_s = now_s
        self._taken += more
        return self._slot_seconds
