"""Which cells of the KV cache belong to whom: a mirror of llama.cpp's unified cache, kept to count.

llama.cpp keeps one pool of cells. A cell belongs to every sequence that shares its token: copying a prefix
to another sequence takes no new cells, and a cell is free when its last owner lets go. It does not say how
many are free, so we keep the same books. A *pinned* sequence is one that runs; the cells that only unpinned
sequences hold can be had by forgetting those.

A split cache has a context's worth of cells for each slot, so there the books are never short, and only the
lengths count.
"""

from collections.abc import Sequence


class CellTable:
    """Books of `cells` cells and `sequences` sequences, each a run of cells by position."""

    def __init__(self, cells: int, sequences: int) -> None:
        self._free = list(range(cells - 1, -1, -1))
        self._owners = [0] * cells
        self._pins = [0] * cells
        self._cells: list[list[int]] = [[] for _ in range(sequences)]
        self._is_pinned = [False] * sequences
        self.pinned = 0
        """Cells that a pinned sequence holds."""

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def reclaimable(self) -> int:
        """Cells that are free once every unpinned sequence is forgotten."""
        return len(self._owners) - self.pinned

    def length(self, sequence: int) -> int:
        return len(self._cells[sequence])

    def unpinned(self, sequence: int, length: int) -> int:
        """How many of a sequence's first `length` cells no running sequence holds."""
        return sum(self._pins[cell] == 0 for cell in self._cells[sequence][:length])

    def append(self, sequence: int, count: int) -> None:
        """Take `count` free cells; the caller has seen to it that there are as many."""
        pinned = int(self._is_pinned[sequence])
        free, owners, pins, cells = self._free, self._owners, self._pins, self._cells[sequence]
        for _ in range(count):
            cell = free.pop()
            owners[cell] = 1
            pins[cell] = pinned
            cells.append(cell)
        self.pinned += pinned * count

    def append_each(self, sequences: Sequence[int]) -> None:
        """Take a free cell for each, as in every step that decodes: they are pinned."""
        free, owners, pins, cells = self._free, self._owners, self._pins, self._cells
        for sequence in sequences:
            cell = free.pop()
            owners[cell] = pins[cell] = 1
            cells[sequence].append(cell)
        self.pinned += len(sequences)

    def share(self, source: int, target: int, length: int) -> None:
        """Give the empty, pinned sequence `target` the first `length` cells of `source` too."""
        shared = self._cells[source][:length]
        for cell in shared:
            self._owners[cell] += 1
        self._pin(shared)
        self._cells[target] = shared

    def truncate(self, sequence: int, length: int) -> None:
        """Let go of everything from position `length` on."""
        cells, owners, free = self._cells[sequence], self._owners, self._free
        gone = cells[length:]
        del cells[length:]
        if self._is_pinned[sequence]:
            self._unpin(gone)
        for cell in reversed(gone):
            owners[cell] -= 1
            if not owners[cell]:
                free.append(cell)

    def pin(self, sequence: int) -> None:
        """The sequence runs now."""
        self._is_pinned[sequence] = True
        self._pin(self._cells[sequence])

    def unpin(self, sequence: int) -> None:
        """The sequence runs no more."""
        self._is_pinned[sequence] = False
        self._unpin(self._cells[sequence])

    def _pin(self, cells: Sequence[int]) -> None:
        pins = self._pins
        for cell in cells:
            pins[cell] += 1
            self.pinned += pins[cell] == 1

    def _unpin(self, cells: Sequence[int]) -> None:
        pins = self._pins
        for cell in cells:
            pins[cell] -= 1
            self.pinned -= not pins[cell]
