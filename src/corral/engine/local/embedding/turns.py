"""Which inputs are embedded in the next step, and what vectors come of it: pure, no clock, no thread.

Rules
-----
- The tasks share a step in equal parts, so a request of two thousand texts does not keep one of a single text
  waiting. What a task has no use for goes to the others.
- A task's inputs go in their order, as many whole ones as its part has room for. The next one is split where
  the embedder can do that; it holds its cells from its first step to its last. Where the embedder cannot, the
  first in line has room for all of its next input, whatever its part is, and the others share what is left;
  then it goes behind all others.
- Who was served goes to the end of the line. Who cannot begin for want of cells stays at its head, and nobody
  behind begins before it does.

`plan` gives a step; `commit` takes the vectors that it gave. A step that gave none is planned again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from corral.engine.local.backend import Chunk, EmbedShape, Pooling
from corral.engine.local.task import EmbedTask

Vector = NDArray[np.float32]
"""[dimensions]."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk of one of a task's inputs; whether it is the last of it."""

    embedding: "Embedding"
    chunk: Chunk
    is_last: bool


@dataclass(slots=True, eq=False)
class Embedding:
    """A task on its way: `index` is the input whose turn it is, `computed` how many of its tokens are done.

    `done_tokens` of all its inputs are; `aborted_tokens` were in a step that was cut short.
    """

    task: EmbedTask
    total_tokens: int
    submitted_s: float
    index: int = 0
    computed: int = 0
    sequence: int | None = None
    done_tokens: int = 0
    aborted_tokens: int = 0
    _pooled: NDArray[np.float64] | None = None

    @property
    def key(self) -> int:
        return self.task.key

    @property
    def left_tokens(self) -> int:
        return self.total_tokens - self.done_tokens

    @property
    def is_whole(self) -> bool:
        return self.index == len(self.task.inputs)

    @property
    def held_cells(self) -> int:
        return 0 if self.sequence is None else len(self.task.inputs[self.index])

    def begin_again(self) -> None:
        """What was computed of its input is gone."""
        self.done_tokens -= self.computed
        self.computed, self.sequence, self._pooled = 0, None, None

    def take(self, piece: Piece, vector: Vector, pooling: Pooling) -> Vector | None:
        """A piece is computed, and this is its vector; that of the whole input if it was its last."""
        chunk = piece.chunk
        tokens = len(chunk.tokens)
        self.done_tokens += tokens
        match pooling:
            case "mean":
                weighted = vector.astype(np.float64) * tokens
                self._pooled = weighted if self._pooled is None else self._pooled + weighted
            case "last":
                self._pooled = vector.astype(np.float64)
            case "cls":
                self._pooled = vector.astype(np.float64) if self._pooled is None else self._pooled
        if not piece.is_last:
            self.computed = chunk.position + tokens
            self.sequence = chunk.sequence
            return None
        pooled, self._pooled = self._pooled, None
        self.index += 1
        self.computed, self.sequence = 0, None
        return shortened(pooled, self.task.dimensions)


def shortened(vector: NDArray[np.float64], dimensions: int) -> Vector:
    """The first so many numbers of a vector, brought to length 1; all of them where that is its size.

    A model trained for it keeps most of the meaning there (Kusupati et al. 2022, "Matryoshka").
    """
    kept = vector[:dimensions]
    length = float(np.linalg.norm(kept))
    return (kept / length if length > 0 else kept).astype(np.float32)


@dataclass(slots=True)
class Turns:
    """The line of tasks, and the sequences of an embedder of this shape."""

    shape: EmbedShape
    _line: list[Embedding] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self._line)

    @property
    def left_tokens(self) -> int:
        """Still to be computed, of all tasks."""
        return sum(embedding.left_tokens for embedding in self._line)

    def add(self, task: EmbedTask, submitted_s: float) -> Embedding:
        embedding = Embedding(task, sum(map(len, task.inputs)), submitted_s)
        self._line.append(embedding)
        return embedding

    def remove(self, embedding: Embedding) -> None:
        """Take a task out; the caller has the embedder forget its sequence, if it holds one."""
        self._line.remove(embedding)

    def plan(self, budget_tokens: int) -> list[Piece]:
        """The next step, of about so many tokens; empty only if there is no task."""
        if not self._line:
            return []
        budget = max(1, min(budget_tokens, self.shape.batch_tokens))
        held = {embedding.sequence for embedding in self._line}
        free_cells = self.shape.cells - sum(embedding.held_cells for embedding in self._line)
        step = _Step(
            self.shape, [number for number in range(self.shape.sequences) if number not in held], free_cells
        )
        taking_part = self._with_room(free_cells)
        for embedding, part in zip(taking_part, self._parts(budget, taking_part), strict=True):
            step.fill(embedding, part)
        for embedding in taking_part:
            if step.pieces:
                break
            step.fill(embedding, budget)  # nothing was left for who has begun, and nobody else could begin
        served = {piece.embedding.key for piece in step.pieces}
        first = None if self.shape.can_split else taking_part[0]
        self._line.sort(key=lambda embedding: (embedding.key in served, embedding is first))
        return step.pieces

    def _parts(self, budget: int, taking_part: Sequence[Embedding]) -> list[int]:
        """How many tokens of a step each has; the first of a line of whole inputs may have more than all."""
        wanted = [embedding.left_tokens for embedding in taking_part]
        parts = shares(budget, wanted)
        first = taking_part[0]
        if self.shape.can_split or parts[0] >= (whole := len(first.task.inputs[first.index])):
            return parts
        return [whole, *shares(max(0, budget - whole), wanted[1:])]

    def _with_room(self, free_cells: int) -> list[Embedding]:
        """Who can take part in a step: its input has begun, or can before anybody who waits for cells."""
        taking_part, may_begin = [], True
        for embedding in self._line:
            if embedding.sequence is None:
                free_cells -= len(embedding.task.inputs[embedding.index])
                may_begin = may_begin and free_cells >= 0
                if not may_begin:
                    continue
            taking_part.append(embedding)
        return taking_part


@dataclass(slots=True)
class _Step:
    """A step that is being filled, with the sequences and cells that are free for it."""

    shape: EmbedShape
    sequences: list[int]
    cells: int
    pieces: list[Piece] = field(default_factory=list)
    _may_begin: bool = True

    def fill(self, embedding: Embedding, room: int) -> None:
        """Put in as much of a task as there is room for, in tokens."""
        inputs = embedding.task.inputs
        index, position, sequence = embedding.index, embedding.computed, embedding.sequence
        while room > 0 and index < len(inputs):
            tokens = inputs[index]
            taken = min(len(tokens) - position, room)
            is_last = position + taken == len(tokens)
            if not is_last and not self.shape.can_split:
                return
            if sequence is None:
                sequence = self._begun(len(tokens))
            if sequence is None:
                return
            chunk = Chunk(sequence, position, tokens[position : position + taken], taken)
            self.pieces.append(Piece(embedding, chunk, is_last))
            room -= taken
            index, position, sequence = index + 1, 0, None

    def _begun(self, tokens: int) -> int | None:
        """A sequence for an input of so many tokens; None if it has to wait."""
        if not self._may_begin or not self.sequences:
            return None
        if tokens > self.cells:
            self._may_begin = False
            return None
        self.cells -= tokens
        return self.sequences.pop()


def shares(budget: int, wanted: Sequence[int]) -> list[int]:
    """Parts of a budget, equal ones but for who wants less; what is left over goes to the first."""
    parts = [0] * len(wanted)
    left = budget
    hungry = _hungry(parts, wanted)
    while left and hungry:
        each = left // len(hungry)
        for number in hungry if each else hungry[:left]:
            given = min(max(each, 1), wanted[number] - parts[number])
            parts[number] += given
            left -= given
        hungry = _hungry(parts, wanted)
    return parts


def _hungry(parts: Iterable[int], wanted: Iterable[int]) -> list[int]:
    return [number for number, (part, want) in enumerate(zip(parts, wanted, strict=True)) if part < want]
