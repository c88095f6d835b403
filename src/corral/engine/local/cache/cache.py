"""The books of the KV cache: what it holds, what a new prompt finds there, and what goes for it. Pure.

Rules
-----
- A lane *begins* with the longest prefix that can be had: of another lane that runs, of what an ended one
  left in the cache (it is *kept*), or of what was moved from there to the host's memory (it is *saved*).
- It begins only when all of it fits, with some room for the others to grow, so a prefill that was begun can
  be completed. Kept prefixes make room for it, the least recently used first; what a running lane shares
  does not, since it costs nothing.
- Making room is moving out: a kept prefix is saved if copying it there and back costs less than computing it.
- Attention passes over every cell in use, for each lane. So where what was moved out can come back, kept
  prefixes move out as soon as they would slow down those who run, not only when their cells are needed.
- Where only whole chunks of prompts may be used again (`chunk_tokens`), nothing else is found or kept.

What has to be done to the cache itself is booked as operations, in order: `take_operations` is the one door
by which they leave. Until they are done the cache is behind its books.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from corral.engine.local.backend import CacheShape
from corral.engine.local.cache.cells import CellTable
from corral.engine.local.cache.operations import Copy, Cut, Forget, Load, Operation
from corral.engine.local.cache.prefixes import PrefixIndex, common_prefix
from corral.engine.local.cache.saved import SavedStates
from corral.engine.local.costs import Costs
from corral.engine.local.lane import Lane, Tokens
from corral.events import Found

GROWTH_TOKENS = 16  # room left to each running lane before another one may begin
KEPT_TOKENS = 8  # a prefix shorter than this is not worth a sequence of the cache
SLOWED_SHARE = 1 / 3  # by which kept prefixes may lengthen a step, where they can be saved instead


@dataclass(frozen=True, slots=True)
class KeepOptions:
    """What may stay of ended lanes.

    `reuses_prefixes` off keeps nothing. At most `kept_tokens` stay in the KV cache beside running lanes, or
    all there is room for if None; `saved_tokens` of those that leave it stay in the host's memory. Of a
    prompt, as many tokens can be used again as there are in whole chunks of `chunk_tokens`, and none of an
    answer; 0 where any can.
    """

    reuses_prefixes: bool = True
    chunk_tokens: int = 0
    kept_tokens: int | None = None
    saved_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Source:
    """Where a computed prefix of `length` lies: in a `sequence` of the cache, or in a saved `state`."""

    length: int
    sequence: int | None = None
    state: int | None = None


NOWHERE = Source(0)


class CacheBooks:
    """Books of a cache of a `shape`. Who runs is told by `begin` and `end`."""

    def __init__(self, shape: CacheShape, options: KeepOptions, costs: Costs) -> None:
        self.shape = shape
        self.saved = SavedStates(options.saved_tokens, can_cut=shape.can_cut)
        self._options = options
        self.costs = costs
        self._cells = CellTable(shape.ctx_tokens, shape.sequences)
        self._kept = PrefixIndex()
        self._lanes: list[Lane] = []
        self._free_sequences = list(range(shape.sequences - 1, -1, -1))
        self._operations: list[Operation] = []

    # What there is

    @property
    def free(self) -> int:
        """Cells that nothing lies in."""
        return self._cells.free

    @property
    def used(self) -> int:
        """Cells that something lies in."""
        return self.shape.ctx_tokens - self._cells.free

    @property
    def kept(self) -> int:
        """Prefixes of ended lanes in the cache."""
        return len(self._kept)

    @property
    def in_use(self) -> int:
        """Cells of lanes that run."""
        return self._cells.pinned

    @property
    def reuses_beginnings(self) -> bool:
        """Whether one lane can begin with what another one is still computing."""
        return self.shape.can_cut and self._options.reuses_prefixes

    def reusable(self, tokens: int) -> int:
        """How many of the first `tokens` of a prompt may be used again."""
        chunk_tokens = self._options.chunk_tokens
        return tokens - tokens % chunk_tokens if chunk_tokens else tokens

    def length(self, sequence: int) -> int:
        """Tokens of a sequence."""
        return self._cells.length(sequence)

    def find(self, lane: Lane) -> Source:
        """Where the longest computed prefix of what a lane wants lies."""
        wanted, shape = lane.wanted[: self.reusable(len(lane.wanted))], self.shape
        best = NOWHERE
        if (kept := self._kept.longest(wanted, whole_only=not shape.can_cut)) is not None:
            best = Source(self.reusable(kept[1]), sequence=kept[0])
        if self.reuses_beginnings:
            best = self._longest_running(wanted, best)
        if (saved := self.saved.longest(wanted)) is not None:
            state, length = saved[0], self.reusable(saved[1])
            if length >= KEPT_TOKENS and self._is_worth_loading(state, length - best.length):
                best = Source(length, state=state)
        return best if best.length else NOWHERE

    def beginnings(self) -> list[Tokens]:
        """All prefixes that are kept or saved, for a prompt to begin with."""
        if not self._options.reuses_prefixes:
            return []
        return [self._kept[entry] for entry in self._kept] + [
            self.saved.tokens(state) for state in self.saved
        ]

    def take_operations(self) -> list[Operation]:
        """What is to be done to the cache now, in order, before anything is computed in it."""
        taken, self._operations = self._operations, []
        return taken

    # What happens to a lane

    def begin(self, lane: Lane, source: Source) -> bool:
        """Give a lane its sequence and what was found for it, if all the rest of it fits; whether it does."""
        if self.shape.shares_cells:  # else there is a context's worth of them for each
            promised = sum(len(other.tokens) - other.computed for other in self._lanes)
            promised += GROWTH_TOKENS * len(self._lanes)
            if self._cells_needed(lane, source) + promised > self._cells.reclaimable:
                return False
        if source.state is not None:
            self._begin_from_state(lane, source.state, source.length)
        else:
            self._begin_from_sequence(lane, source)
        self._lanes.append(lane)
        return True

    def grow(self, lane: Lane, tokens: int) -> None:
        """So many more tokens of a lane were computed; the caller has seen to it that there are cells."""
        self._cells.append(_sequence(lane), tokens)
        lane.computed += tokens

    def grow_each(self, lanes: Sequence[Lane]) -> None:
        """As `grow`, by a token of each."""
        self._cells.append_each([_sequence(lane) for lane in lanes])
        for lane in lanes:
            lane.computed += 1

    def cut(self, lane: Lane, length: int) -> None:
        """Drop what was computed of a lane from position `length` on."""
        sequence = _sequence(lane)
        self._cells.truncate(sequence, length)
        self._operations.append(Cut(sequence, length))
        lane.computed = length

    def end(self, lane: Lane) -> None:
        """A lane runs no more, or not for now: what was computed of it is kept until its room is needed."""
        if lane.sequence is None:
            return
        self._lanes.remove(lane)
        if self._options.chunk_tokens and self._options.reuses_prefixes:
            self.cut(lane, self.reusable(min(lane.computed, lane.prompt_tokens)))
        sequence, tokens = lane.sequence, lane.computed_tokens()
        self._cells.unpin(sequence)
        lane.step_back()
        is_covered = self.shape.can_cut and self._kept.covers(tokens)
        if self._options.reuses_prefixes and len(tokens) >= KEPT_TOKENS and not is_covered:
            self._kept.add(sequence, tokens)
        else:
            self._release(sequence)

    # What is kept

    def trim(self, running: int) -> None:
        """Move one prefix out, never the newest, if all of them slow `running` lanes down too much."""
        limit = self._kept_limit(max(running, 1))
        if limit is None or len(self._kept) < 2:
            return
        idle = self._cells.reclaimable - self._cells.free if self.shape.shares_cells else self._kept.total
        if idle > limit:
            self.evict()

    def evict(self) -> bool:
        """Move the least recently used prefix out of the cache; False if there is none that may go."""
        oldest = self._kept.oldest()
        if oldest is None:
            return False
        tokens = self._kept[oldest]
        if self.costs.prefill_ms(len(tokens)) > 2 * self.costs.copy_ms(len(tokens)):
            self._operations += self.saved.save(oldest, tokens)
        self._forget(oldest)
        return True

    def _kept_limit(self, running: int) -> int | None:
        limit = self._options.kept_tokens
        if limit is None or not self.saved.most_tokens or not self.shape.shares_cells:
            return limit
        return min(limit, self.costs.idle_cells(running, SLOWED_SHARE))

    # How

    def _longest_running(self, wanted: Tokens, best: Source) -> Source:
        """The longest prefix that a lane has computed of its prompt, if it is longer than the `best`.

        Most lanes are told by one token, the first that a longer prefix would have in common.
        """
        at, token = best.length, _token(wanted, best.length)
        for other in self._lanes:
            if other.computed <= at or other.tokens[at] != token:
                continue
            length = self.reusable(min(common_prefix(other.prompt, wanted), other.computed))
            if length > at:
                best = Source(length, sequence=other.sequence)
                at, token = length, _token(wanted, length)
        return best

    def _is_worth_loading(self, state: int, gained: int) -> bool:
        """Loading copies all of a state, and may push another one of that size out."""
        if gained <= 0:
            return False
        size = len(self.saved.tokens(state))
        return 2 * self.costs.copy_ms(size) < self.costs.prefill_ms(gained)

    def _cells_needed(self, lane: Lane, source: Source) -> int:
        """Cells that are neither free nor reclaimable any more once `lane` is computed from `source`."""
        if source.state is not None:
            return max(len(lane.tokens), len(self.saved.tokens(source.state)))
        shared = 0 if source.sequence is None else self._cells.unpinned(source.sequence, source.length)
        return len(lane.tokens) - source.length + shared

    def _begin_from_sequence(self, lane: Lane, source: Source) -> None:
        kept = source.sequence
        if kept is not None and kept not in self._kept:
            kept = None  # a lane that runs has it
        if kept is not None:
            self._kept.pin(kept)
        if not self._free_sequences and not self.evict():
            assert kept is not None, "a lane that runs has a sequence, and there are more than lanes"
            self._kept.unpin(kept)  # what was found is the only one that can make room
            self.evict()
            kept, source = None, NOWHERE
        found: Found = "running" if kept is None else "kept"
        sequence = self._start(lane, source.length, found if source.length else None)
        if source.sequence is not None:
            self._cells.share(source.sequence, sequence, source.length)
            self._operations.append(Copy(source.sequence, sequence, source.length))
        if kept is not None:
            self._kept.unpin(kept)
            self._kept.touch(kept)
            if len(self._kept[kept]) == source.length:
                self._forget(kept)  # the lane has all of it

    def _begin_from_state(self, lane: Lane, state: int, length: int) -> None:
        size = len(self.saved.tokens(state))
        drop = self.saved.take(state) if length == size else None  # then the lane has all of it
        if drop is None:
            self.saved.pin(state)
        while not self._free_sequences or self._cells.free < size:
            evicted = self.evict()
            assert evicted, "it was said to fit"
        sequence = self._start(lane, length, "saved")
        self._cells.append(sequence, size)
        self._cells.truncate(sequence, length)
        self._operations.append(Load(state, sequence, length))
        if drop is None:
            self.saved.unpin(state)
        else:
            self._operations.append(drop)

    def _start(self, lane: Lane, length: int, found: Found | None) -> int:
        """Take a free sequence for a lane that begins with `length` tokens, where they were `found`."""
        sequence = self._free_sequences.pop()
        self._cells.pin(sequence)
        lane.sequence = sequence
        lane.computed = lane.cached_tokens = length
        lane.found = found
        return sequence

    def _forget(self, sequence: int) -> None:
        self._kept.drop(sequence)
        self._release(sequence)

    def _release(self, sequence: int) -> None:
        self._cells.truncate(sequence, 0)
        self._free_sequences.append(sequence)
        self._operations.append(Forget(sequence))


def _sequence(lane: Lane) -> int:
    assert lane.sequence is not None, "the lane has not begun"
    return lane.sequence


def _token(tokens: Tokens, at: int) -> int | None:
    return int(tokens[at]) if at < len(tokens) else None
