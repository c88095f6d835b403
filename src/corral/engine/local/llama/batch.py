"""One llama_decode's tokens, laid out as llama.cpp wants them."""

from __future__ import annotations  # the bindings define their pointer types for type checkers only

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from corral.engine.local.backend import Chunk


class Batch:
    """A llama_batch over numpy arrays of `capacity` tokens, one sequence id per token.

    All arrays are [capacity], made once and filled by slices.
    """

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._sequences = np.zeros(capacity, np.int32)
        self._sequence_counts = np.ones(capacity, np.int32)
        self._logits = np.zeros(capacity, np.int8)
        addresses = self._sequences.ctypes.data + 4 * np.arange(capacity, dtype=np.uintp)
        self._sequence_pointers = addresses.astype(np.uintp)
        self._counting = np.arange(capacity, dtype=np.int32)
        self._rows: list[int] = []
        self._outputs: list[int] = []
        self.struct = llama_cpp.llama_batch(
            token=_pointer(self._tokens, llama_cpp.llama_token),
            pos=_pointer(self._positions, llama_cpp.llama_pos),
            n_seq_id=_pointer(self._sequence_counts, ctypes.c_int32),
            seq_id=_pointer(self._sequence_pointers, ctypes.POINTER(llama_cpp.llama_seq_id)),
            logits=_pointer(self._logits, ctypes.c_int8),
        )

    def fill(self, chunks: Sequence[Chunk], ids: Sequence[int]) -> int:
        """Lay the chunks out by the ids of their sequences; returns how many rows of logits they ask for."""
        if all(len(chunk.tokens) == 1 == chunk.rows for chunk in chunks):
            return self._fill_one_each(chunks, ids)
        rows: list[list[int]] = [[] for _ in chunks]
        end = 0
        for index in sorted(range(len(chunks)), key=ids.__getitem__):
            chunk = chunks[index]
            start, end = end, end + len(chunk.tokens)
            self._tokens[start:end] = chunk.tokens
            self._positions[start:end] = self._counting[: end - start] + chunk.position
            self._sequences[start:end] = ids[index]
            self._logits[start:end] = 0
            if chunk.rows:
                self._logits[end - chunk.rows : end] = 1
                rows[index] = list(range(end - chunk.rows, end))
        self.struct.n_tokens = end
        self._rows = [at for own in rows for at in own]
        ranks = {at: rank for rank, at in enumerate(sorted(self._rows))}
        self._outputs = [ranks[at] for at in self._rows]
        return len(self._rows)

    def _fill_one_each(self, chunks: Sequence[Chunk], ids: Sequence[int]) -> int:
        """As `fill`, for a step that decodes without drafts, as most do."""
        count = len(chunks)
        order = sorted(range(count), key=ids.__getitem__)
        self._tokens[:count] = [chunks[index].tokens[0] for index in order]
        self._positions[:count] = [chunks[index].position for index in order]
        self._sequences[:count] = [ids[index] for index in order]
        self._logits[:count] = 1
        self.struct.n_tokens = count
        rows = [0] * count
        for at, index in enumerate(order):
            rows[index] = at
        self._rows = self._outputs = rows
        return count

    def index_of_row(self, row: int) -> int:
        """Where in the batch the token is whose logits are row `row`, in the order of the chunks."""
        return self._rows[row]

    def output_of_row(self, row: int) -> int:
        """Which of llama.cpp's rows of logits, in the order of the batch, is row `row`."""
        return self._outputs[row]


def _pointer(array: NDArray[Any], element: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(element))
