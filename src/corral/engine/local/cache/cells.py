"""Which cells of the KV cache belong to whom: a mirror of llama.cpp's unified cache, kept to count.

llama.cpp keeps one pool of cells. A cell belongs to every sequence that shares its token: copying a prefix
to another sequence takes no new cells, and a cell is free when its last owner lets go. It does not say how
many are free, so we keep the same books. A *pinned* sequence is one that runs; the cells that only unpinned
sequences hold can be had by forgetting those.

Cells that belong to the same sequences are one run, behind the run before it: sequences that begin alike have
the same runs up to where they part. So no book is kept of single cells, and what happens to a sequence takes
as long as it has runs, mostly one.

A split cache has a context's worth of cells for each slot, so there the books are never short, and only the
lengths count.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class _Run:
    """So many cells of as many sequences, its `owners`, of which `pins` are pinned."""

    before: "_Run | None"
    length: int
    owners: int = 1
    pins: int = 0

    def back(self) -> Iterator["_Run"]:
        """This run and all before it."""
        run: _Run | None = self
        while run is not None:
            yield run
            run = run.before


class CellTable:
    """Books of `cells` cells and `sequences` sequences, each with its cells by position."""

    def __init__(self, cells: int, sequences: int) -> None:
        self.free = cells
        """Cells that no sequence holds."""
        self.pinned = 0
        """Cells that a pinned sequence holds."""
        self._total = cells
        self._last: list[_Run | None] = [None] * sequences
        self._lengths = [0] * sequences
        self._is_pinned = [False] * sequences

    @property
    def reclaimable(self) -> int:
        """Cells that are free once every unpinned sequence is forgotten."""
        return self._total - self.pinned

    def length(self, sequence: int) -> int:
        return self._lengths[sequence]

    def unpinned(self, sequence: int, length: int) -> int:
        """How many of a sequence's first `length` cells no running sequence holds."""
        start, count = self._lengths[sequence], 0
        for run in self._back(sequence):
            start -= run.length
            if not run.pins:
                count += max(0, min(run.length, length - start))
        return count

    def append(self, sequence: int, count: int) -> None:
        """Take `count` free cells; the caller has seen to it that there are as many."""
        is_pinned, last = self._is_pinned[sequence], self._last[sequence]
        if last is not None and last.owners == 1:
            last.length += count
        else:
            self._last[sequence] = _Run(last, count, pins=int(is_pinned))
        self._lengths[sequence] += count
        self.free -= count
        if is_pinned:
            self.pinned += count

    def append_each(self, sequences: Sequence[int]) -> None:
        """Take a free cell for each, as in every step that decodes: they are pinned."""
        every, lengths = self._last, self._lengths
        for sequence in sequences:
            last = every[sequence]
            if last is not None and last.owners == 1:
                last.length += 1
            else:
                every[sequence] = _Run(last, 1, pins=1)
            lengths[sequence] += 1
        self.free -= len(sequences)
        self.pinned += len(sequences)

    def share(self, source: int, target: int, length: int) -> None:
        """Give the empty, pinned sequence `target` the first `length` cells of `source` too."""
        last = self._last[target] = self._cut(source, length)
        self._lengths[target] = length
        for run in last.back() if last is not None else ():
            run.owners += 1
            self._pin(run)

    def truncate(self, sequence: int, length: int) -> None:
        """Let go of everything from position `length` on."""
        if length >= self._lengths[sequence]:
            return
        kept = self._cut(sequence, length)
        for run in self._back(sequence):
            if run is kept:
                break
            run.owners -= 1
            if self._is_pinned[sequence]:
                self._unpin(run)
            if not run.owners:
                self.free += run.length
        self._last[sequence] = kept
        self._lengths[sequence] = length

    def pin(self, sequence: int) -> None:
        """The sequence runs now."""
        self._is_pinned[sequence] = True
        for run in self._back(sequence):
            self._pin(run)

    def unpin(self, sequence: int) -> None:
        """The sequence runs no more."""
        self._is_pinned[sequence] = False
        for run in self._back(sequence):
            self._unpin(run)

    def _back(self, sequence: int) -> Iterator[_Run]:
        last = self._last[sequence]
        return iter(()) if last is None else last.back()

    def _cut(self, sequence: int, length: int) -> _Run | None:
        """The run that ends the first `length` cells of a sequence; one is cut in two there, if need be."""
        start = self._lengths[sequence]
        for run in self._back(sequence):
            start -= run.length
            if start < length:
                if (head := length - start) < run.length:
                    run.before = _Run(run.before, head, run.owners, run.pins)
                    run.length -= head
                    return run.before
                return run
        return None

    def _pin(self, run: _Run) -> None:
        run.pins += 1
        if run.pins == 1:
            self.pinned += run.length

    def _unpin(self, run: _Run) -> None:
        run.pins -= 1
        if not run.pins:
            self.pinned -= run.length
