"""What those in line are told: `estimate`, over what the books say of those that run and the tempo so far."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from corral.books.record import Record
from corral.serving.estimate import Lengths, Work, waits_s
from corral.serving.tempo import Tempo

_NOTHING: Final = Work(prefill_tokens=0, said_tokens=0, max_tokens=0, is_limited=True)


class Forecast:
    """How long requests will wait. Synchronous; `now_s` is a monotonic clock."""

    def __init__(self, slots: int, now_s: Callable[[], float], *, limits_all: bool) -> None:
        """`limits_all`: no answer is without a limit, whether its client named one or not."""
        self._slots = slots
        self._limits_all = limits_all
        self._lengths = Lengths()
        self._tempo = Tempo(slots, now_s)

    def resize(self, slots: int) -> None:
        """There are so many slots from now on."""
        self._slots = slots
        self._tempo.resize(slots)

    def began(self, record: Record) -> None:
        """It has its slots, and the engine has it."""
        self._tempo.began(record)

    def released(self, record: Record) -> None:
        """The engine has let go of one of its sequences; of an answer that is whole, the length counts."""
        self._tempo.released(record)
        if not record.life.held and record.request.embed is None:
            for choice in range(record.request.n):
                if record.is_finished(choice):
                    self._lengths.add(record.counts.said_tokens(choice))

    def waits_s(self, live: Iterable[Record], line: Sequence[Record]) -> list[float | None]:
        """How long each of those in line will wait, in seconds, in their order; None where nobody can say."""
        running = [record for record in live if record.life.held]
        now = [work for record in running for work in self._left(record)]
        then = [[self._whole(record)] * record.request.n for record in line]
        return waits_s(now, then, self._slots, self._lengths, self._tempo.speeds(running))

    def _left(self, record: Record) -> list[Work]:
        """What is left of a running request, for each of its sequences that the engine has yet."""
        held, works = record.life.held, []
        if not record.has_ended:
            choices = (choice for choice in range(record.request.n) if not record.is_finished(choice))
            works = [self._work(record, choice) for choice in choices][:held]
        return works + [_NOTHING] * (held - len(works))

    def _work(self, record: Record, choice: int) -> Work:
        counts = record.counts
        said, done = counts.said_tokens(choice), counts.done_tokens(choice)
        prefill = 0 if said else record.prompt_tokens - done if done else self._prefill(record)
        return self._limited(record, prefill, said)

    def _whole(self, record: Record) -> Work:
        return self._limited(record, self._prefill(record), 0)

    def _prefill(self, record: Record) -> int:
        """Of a prompt of which nothing is known yet: as much is expected in the cache as of those before.

        Texts that are embedded are never found there.
        """
        if record.request.embed is not None:
            return record.prompt_tokens
        return round(record.prompt_tokens * self._tempo.computed_share)

    def _limited(self, record: Record, prefill_tokens: int, said_tokens: int) -> Work:
        asked = record.request
        embeds = asked.embed is not None
        is_limited = self._limits_all or asked.max_tokens is not None or embeds
        return Work(prefill_tokens, said_tokens, record.max_tokens, is_limited, embeds)
