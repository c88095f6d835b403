from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from corral.engine.local.cache.cells import CellTable

CELLS, SEQUENCES = 40, 4
sequences = st.integers(0, SEQUENCES - 1)


class Cells(RuleBasedStateMachine):
    """The same done to a table, and to sequences that say of each of their cells which one it is."""

    def __init__(self) -> None:
        super().__init__()
        self.table = CellTable(CELLS, SEQUENCES)
        self.held: list[list[int]] = [[] for _ in range(SEQUENCES)]
        self.pinned: set[int] = set()
        self.cells = 0

    @rule(sequence=sequences, count=st.integers(1, 9))
    def append(self, sequence: int, count: int) -> None:
        count = min(count, self.table.free)
        self.table.append(sequence, count)
        self._take(sequence, count)

    @precondition(lambda self: self.pinned and self.table.free >= len(self.pinned))
    @rule()
    def append_to_all_that_run(self) -> None:
        self.table.append_each(sorted(self.pinned))
        for sequence in self.pinned:
            self._take(sequence, 1)

    @rule(source=sequences, empty=sequences, length=st.integers(0, 20))
    def share(self, source: int, empty: int, length: int) -> None:
        if source == empty or self.held[empty] or empty not in self.pinned:
            return
        length = min(length, len(self.held[source]))
        self.table.share(source, empty, length)
        self.held[empty] = self.held[source][:length]

    @rule(sequence=sequences, length=st.integers(0, 20))
    def truncate(self, sequence: int, length: int) -> None:
        self.table.truncate(sequence, length)
        del self.held[sequence][length:]

    @rule(sequence=sequences)
    def pin_or_unpin(self, sequence: int) -> None:
        if sequence in self.pinned:
            self.table.unpin(sequence)
        else:
            self.table.pin(sequence)
        self.pinned ^= {sequence}

    @invariant()
    def both_say_the_same(self) -> None:
        running = set[int]().union(*(self.held[sequence] for sequence in self.pinned))
        assert self.table.free == CELLS - len(Counter(cell for held in self.held for cell in held))
        assert self.table.pinned == len(running)
        assert self.table.reclaimable == CELLS - len(running)
        for sequence, held in enumerate(self.held):
            assert self.table.length(sequence) == len(held)
            for length in range(0, len(held) + 3, 3):
                idle = sum(cell not in running for cell in held[:length])
                assert self.table.unpinned(sequence, length) == idle

    def _take(self, sequence: int, count: int) -> None:
        self.held[sequence] += range(self.cells, self.cells + count)
        self.cells += count


TestCells = Cells.TestCase
