"""The two ways in which llama.cpp keeps sequences.

*Unified*: one pool of cells for all. One request may use all of it while others are short, and a shared
prefix takes no room. But attention passes over everybody's cells for each sequence.

*Split*: a stream of cells for each slot, as long as the context. It takes `slots` times the memory and is
faster the more sequences run and the longer they are (docs/engine.md has the figures). A sequence in no
stream waits in the host's memory.
"""

from __future__ import annotations  # the bindings define their pointer types for type checkers only

import ctypes
from collections.abc import Sequence
from typing import Any, Protocol

import llama_cpp
import numpy as np

from corral.engine.local.backend import BackendLost, CacheShape, KvCache, SavedSequence
from corral.engine.local.llama.streams import Moves, Streams


class LlamaCache(KvCache, Protocol):
    """A KvCache whose sequences have to be placed before a step: their numbers are not llama.cpp's ids."""

    def place(self, sequences: Sequence[int]) -> list[int]:
        """Make ready for a step of these sequences; the id of each, in their order. Raises BackendLost."""
        ...


class UnifiedCache:
    """One pool: a sequence's number is its id."""

    def __init__(
        self, context: llama_cpp.llama_context_p, memory: llama_cpp.llama_memory_t, shape: CacheShape
    ) -> None:
        self.shape = shape
        self._context, self._memory = context, memory

    def place(self, sequences: Sequence[int]) -> list[int]:
        return list(sequences)

    def copy(self, source: int, target: int, length: int) -> None:
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def remove(self, sequence: int, start: int) -> None:
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, start, -1)

    def save(self, sequence: int) -> SavedSequence:
        return _state(self._context, sequence)

    def load(self, saved: SavedSequence, target: int) -> None:
        _restore(self._context, saved, target)

    def length(self, sequence: int) -> int:
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, sequence)) + 1


class SplitCache:
    """A stream for each of `streams` sequences; the others wait outside."""

    def __init__(
        self,
        context: llama_cpp.llama_context_p,
        memory: llama_cpp.llama_memory_t,
        shape: CacheShape,
        streams: int,
    ) -> None:
        self.shape = shape
        self._context, self._memory = context, memory
        self._streams = Streams(streams)
        self._outside: dict[int, tuple[SavedSequence, int]] = {}
        """States of sequences in no stream, with their lengths."""

    def place(self, sequences: Sequence[int]) -> list[int]:
        self._move(self._streams.bring_together(sequences, self.length))
        return [self._streams[sequence] for sequence in sequences]

    def copy(self, source: int, target: int, length: int) -> None:
        self.load(self.save(source), target)
        self.remove(target, length)

    def remove(self, sequence: int, start: int) -> None:
        if start > 0:
            self._forget(self._stream(sequence), start)
        elif sequence in self._streams:
            self._forget(self._streams[sequence], 0)
            self._streams.clear(sequence)
        else:
            self._outside.pop(sequence, None)

    def save(self, sequence: int) -> SavedSequence:
        if sequence in self._streams:
            return _state(self._context, self._streams[sequence])
        return self._outside[sequence][0]

    def load(self, saved: SavedSequence, target: int) -> None:
        _restore(self._context, saved, self._stream(target))

    def length(self, sequence: int) -> int:
        if sequence in self._streams:
            return self._length(self._streams[sequence])
        return self._outside[sequence][1] if sequence in self._outside else 0

    def _move(self, moves: Moves) -> None:
        for sequence, stream in moves.out:
            self._outside[sequence] = _state(self._context, stream), self._length(stream)
            self._forget(stream, 0)
        for sequence, stream in moves.into:
            if sequence in self._outside:
                _restore(self._context, self._outside.pop(sequence)[0], stream)

    def _stream(self, sequence: int) -> int:
        """The stream of a sequence, which gets one if it has none."""
        self._move(self._streams.settle(sequence, self.length))
        return self._streams[sequence]

    def _length(self, stream: int) -> int:
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, stream)) + 1

    def _forget(self, stream: int, start: int) -> None:
        llama_cpp.llama_memory_seq_rm(self._memory, stream, start, -1)


class NoCache:
    """That of a model which keeps nothing: nothing is ever put into it."""

    def __init__(self, shape: CacheShape) -> None:
        self.shape = shape

    def place(self, sequences: Sequence[int]) -> list[int]:
        return list(sequences)

    def copy(self, source: int, target: int, length: int) -> None:
        raise AssertionError("there is nothing in it")

    def remove(self, sequence: int, start: int) -> None:
        """There is nothing."""

    def save(self, sequence: int) -> SavedSequence:
        raise AssertionError("there is nothing in it")

    def load(self, saved: SavedSequence, target: int) -> None:
        raise AssertionError("there is nothing in it")

    def length(self, sequence: int) -> int:
        return 0


def _state(context: llama_cpp.llama_context_p, id: int) -> SavedSequence:
    size = llama_cpp.llama_state_seq_get_size(context, id)
    try:
        saved = np.empty(size, np.uint8)
    except MemoryError as error:
        raise BackendLost(f"no memory to save a sequence of {size:,} bytes") from error
    if llama_cpp.llama_state_seq_get_data(context, _bytes(saved), size, id) != size:
        raise BackendLost("llama.cpp could not save a sequence")
    return saved


def _restore(context: llama_cpp.llama_context_p, saved: SavedSequence, id: int) -> None:
    if llama_cpp.llama_state_seq_set_data(context, _bytes(saved), saved.size, id) != saved.size:
        raise BackendLost("llama.cpp could not load a sequence")


def _bytes(saved: SavedSequence) -> Any:
    return ctypes.cast(saved.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
