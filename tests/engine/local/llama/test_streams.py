"""Sequences in streams, against a plain model of what may happen to them."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from corral.engine.local.llama.streams import Moves, Streams

COUNT = 5


class Model:
    """What lies where by the moves alone, and how many tokens were moved."""

    def __init__(self, lengths: dict[int, int]) -> None:
        self.streams = Streams(COUNT)
        self.lengths = lengths
        self.lies: dict[int, int] = {}
        self.moved = 0

    def settle(self, sequence: int) -> None:
        self._follow(self.streams.settle(sequence, self.lengths.__getitem__))
        assert sequence in self.lies

    def bring_together(self, wanted: Sequence[int]) -> None:
        self._follow(self.streams.bring_together(wanted, self.lengths.__getitem__))
        streams = sorted(self.lies[sequence] for sequence in wanted)
        assert streams == list(range(streams[0], streams[0] + len(wanted))), "not neighbours"

    def _follow(self, moves: Moves) -> None:
        for sequence, stream in moves.out:
            assert self.lies.pop(sequence) == stream
            self.moved += self.lengths[sequence]
        for sequence, stream in moves.into:
            assert stream not in self.lies.values(), "two in a stream"
            assert sequence not in self.lies
            self.lies[sequence] = stream
        for sequence, stream in self.lies.items():
            assert self.streams[sequence] == stream
        assert not [own for own in range(20) if own in self.streams and own not in self.lies]


steps = st.lists(st.integers(0, 9), min_size=1, max_size=COUNT, unique=True)


@given(
    st.lists(st.tuples(steps, st.sets(st.integers(0, 9))), max_size=20),
    st.lists(st.integers(0, 99), min_size=10),
)
def test_a_steps_sequences_lie_together_and_nobody_is_lost(
    history: list[tuple[list[int], set[int]]], lengths: list[int]
) -> None:
    model = Model(dict(enumerate(lengths)))
    for wanted, cleared in history:
        model.bring_together(wanted)
        moved = model.moved
        model.bring_together(wanted[::-1])
        assert model.moved == moved, "who lies together stays"
        for sequence in cleared & model.lies.keys():
            model.streams.clear(sequence)
            del model.lies[sequence]


def test_as_few_tokens_move_as_can() -> None:
    model = Model({0: 100, 1: 10, 2: 100, 3: 100, 4: 7})
    model.bring_together([0, 1, 2, 3])
    model.streams.clear(1)
    del model.lies[1]
    model.bring_together([4])
    assert model.moved == 0, "there is room without anybody moving"
    model.bring_together([0, 2, 3])
    assert model.moved == 100, "0 goes behind 3, where it is free, and not where 4 would have to go"


def test_who_only_lies_there_makes_room_for_those_who_take_turns() -> None:
    model = Model({0: 200, 1: 200, 2: 200, 3: 2000, 4: 2000, 5: 10})
    model.bring_together([0, 1, 2, 3, 4])
    model.bring_together([0, 1, 2])
    for _ in range(10):
        model.bring_together([5])
        model.bring_together([0, 1, 2])
    assert model.moved == 2000, "one of the idle ones went, once"


def test_a_sequence_that_joins_moves_nobody_if_there_is_room_beside_the_others() -> None:
    model = Model(dict.fromkeys(range(5), 50))
    model.bring_together([0, 1, 2])
    model.bring_together([3])
    model.bring_together([0, 1, 2, 3])
    assert model.moved == 0


def test_what_is_loaded_between_two_steps_does_not_push_out_who_takes_turns() -> None:
    """Three are computed in turns with two others; a prefix that is loaded goes where nobody takes turns."""
    model = Model({0: 100, 1: 100, 2: 100, 3: 100, 4: 800, 5: 10})
    model.bring_together([4])
    model.bring_together([0, 1, 2])
    model.bring_together([3])
    model.bring_together([0, 1, 2])
    model.settle(5)
    assert set(model.lies) == {0, 1, 2, 3, 5}, "the long one is idle, and cheap to move out"
