"""Which sequence lies in which stream of a split KV cache: pure.

llama.cpp computes a batch in one pass only if its sequences lie in neighbouring streams, with equally many
tokens each, so those of a step are brought together: a gap would mean two passes over the model's weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Moves:
    """First every sequence of `out` leaves its stream, then each of `into` gets one: (sequence, stream)."""

    out: tuple[tuple[int, int], ...]
    into: tuple[tuple[int, int], ...]


IDLE_SHARE = 16  # who took part in neither of the last two groups is moved this much more readily


class Streams:
    """`count` streams, each empty or one sequence's."""

    def __init__(self, count: int) -> None:
        self._wanted: frozenset[int] = frozenset()
        self._wanted_before: frozenset[int] = frozenset()
        self._sequences: list[int | None] = [None] * count
        self._streams: dict[int, int] = {}

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._streams

    def __getitem__(self, sequence: int) -> int:
        return self._streams[sequence]

    def clear(self, sequence: int) -> None:
        """The sequence's stream is empty now."""
        self._sequences[self._streams.pop(sequence)] = None

    def bring_together(self, wanted: Sequence[int], length: Callable[[int], int]) -> Moves:
        """Put the sequences, at most as many as there are streams, into neighbouring ones.

        Where they do not lie there yet, the place is the one for which the fewest tokens move; `length` tells
        how many a sequence that has a stream holds. Who is in the way loses its stream: rather one that only
        lies there than one that takes its turns with these, and would have to come back.
        """
        group = frozenset(wanted)
        if group != self._wanted:
            self._wanted, self._wanted_before = group, self._wanted
        return self._gather(wanted, length)

    def settle(self, sequence: int, length: Callable[[int], int]) -> Moves:
        """Give a sequence a stream if it has none. That is no step: who takes turns is remembered."""
        return self._gather([sequence], length)

    def _gather(self, wanted: Sequence[int], length: Callable[[int], int]) -> Moves:
        if self._are_neighbours(wanted):
            return Moves((), ())
        group = frozenset(wanted)
        start = self._cheapest(group, length)
        window = range(start, start + len(wanted))
        out = tuple(
            (sequence, stream)
            for sequence, stream in self._streams.items()
            if (stream in window) != (sequence in group)
        )
        for sequence, _ in out:
            self.clear(sequence)
        empty = [stream for stream in window if self._sequences[stream] is None]
        into = tuple(zip((own for own in wanted if own not in self._streams), empty, strict=True))
        for sequence, stream in into:
            self._sequences[stream] = sequence
            self._streams[sequence] = stream
        return Moves(out, into)

    def _are_neighbours(self, wanted: Sequence[int]) -> bool:
        streams = [self._streams.get(sequence) for sequence in wanted]
        known = [stream for stream in streams if stream is not None]
        return len(known) == len(wanted) and (not known or max(known) - min(known) < len(wanted))

    def _cheapest(self, group: frozenset[int], length: Callable[[int], int]) -> int:
        """Where the window of a group begins that costs the least: others inside it, its own outside."""
        taking_turns = self._wanted | self._wanted_before

        def cost_inside(sequence: int | None) -> float:
            if sequence is None:
                return 0
            if sequence in group:
                return -length(sequence)
            return length(sequence) if sequence in taking_turns else length(sequence) / IDLE_SHARE

        costs = [cost_inside(sequence) for sequence in self._sequences]
        size = len(group)
        cost = best = sum(costs[:size])
        start = 0
        for end in range(size, len(costs)):
            cost += costs[end] - costs[end - size]
            if cost < best:
                best, start = cost, end - size + 1
        return start
