"""How a step lies in llama.cpp's batch."""

from typing import Any

from corral.engine.local.backend import Chunk
from corral.engine.local.llama.batch import Batch


def laid_out(batch: Batch) -> list[tuple[int, int, int, int]]:
    """Token, position, sequence and whether logits are wanted, as llama.cpp reads them."""
    struct: Any = batch.struct  # its pointers of pointers are not what they are declared to be
    return [
        (struct.token[at], struct.pos[at], struct.seq_id[at][0], struct.logits[at])
        for at in range(struct.n_tokens)
    ]


def test_one_token_each_lies_by_its_sequence_and_its_logits_are_found() -> None:
    batch = Batch(8)
    batch.fill([Chunk(0, 0, [1, 2, 3], 0), Chunk(1, 0, [4, 5], 1)], [0, 1])  # something was there before
    chunks = [Chunk(5, 30, [70], 1), Chunk(2, 10, [80], 1), Chunk(9, 20, [90], 1)]
    assert batch.fill(chunks, [3, 1, 2]) == 3
    assert laid_out(batch) == [(80, 10, 1, 1), (90, 20, 2, 1), (70, 30, 3, 1)]
    assert [batch.index_of_row(row) for row in range(3)] == [2, 0, 1]
    assert [batch.output_of_row(row) for row in range(3)] == [2, 0, 1]


def test_chunks_of_several_tokens_have_logits_for_their_last_rows() -> None:
    batch = Batch(8)
    chunks = [Chunk(5, 30, [70, 71, 72], 2), Chunk(2, 10, [80], 1), Chunk(9, 20, [90, 91], 0)]
    assert batch.fill(chunks, [3, 1, 2]) == 3
    assert laid_out(batch) == [
        (80, 10, 1, 1),
        (90, 20, 2, 0),
        (91, 21, 2, 0),
        (70, 30, 3, 0),
        (71, 31, 3, 1),
        (72, 32, 3, 1),
    ]
    assert [batch.index_of_row(row) for row in range(3)] == [4, 5, 0]
    assert [batch.output_of_row(row) for row in range(3)] == [1, 2, 0]
