"""Steps of an embedder, between those of the model that generates: what the worker has of texts to embed.

How much goes into a step is learned from how long they took, as for prompts. Whoever decodes meanwhile waits
for one of these steps between two tokens, as it does for a step of a prompt.
"""

import logging
from collections.abc import Sequence
from time import perf_counter

import numpy as np

from corral.engine.contract import Waste
from corral.engine.local.backend import BackendLost, Embedder, StepAborted
from corral.engine.local.costs import Costs
from corral.engine.local.current import CurrentStep
from corral.engine.local.embedding.turns import Embedding, Piece, Turns, Vector
from corral.engine.local.task import Delivery, EmbedTask
from corral.errors import EngineFailed
from corral.events import Embedded, Event, Failed, Finished, Prefill, Usage

logger = logging.getLogger("corral.engine")


class EmbedSteps:
    """The tasks of one embedder; on the worker's thread. Its steps are `current` while they run."""

    def __init__(self, embedder: Embedder, current: CurrentStep) -> None:
        self._embedder = embedder
        self._current = current
        self._turns = Turns(embedder.shape)
        self._costs = Costs()
        self._running: dict[int, Embedding] = {}

    def __bool__(self) -> bool:
        return bool(self._running)

    def __contains__(self, key: int) -> bool:
        return key in self._running

    @property
    def keys(self) -> list[int]:
        return list(self._running)

    def replace(self, embedder: Embedder) -> None:
        """Go on with another embedder of the same shape; there is no task."""
        assert not self._running
        self._embedder = embedder

    def begin(self, task: EmbedTask) -> None:
        """Take a task in."""
        self._running[task.key] = self._turns.add(task, perf_counter())

    def release(self, key: int, delivery: Delivery | None = None, *, is_cancelled: bool = False) -> None:
        """Take a task out. What was computed of one that is cancelled is of use to nobody."""
        embedding = self._running.pop(key)
        self._turns.remove(embedding)
        if embedding.sequence is not None:
            self._embedder.forget(embedding.sequence)
        if delivery is not None:
            dropped = embedding.done_tokens + embedding.aborted_tokens if is_cancelled else 0
            delivery.released.append((key, Waste(prefill_dropped=dropped)))

    def step(self, budget_ms: float, delivery: Delivery) -> None:
        """One step that takes about so long, and what comes of it. Raises BackendLost."""
        budget = self._costs.prefill_tokens(budget_ms, 0.0, self._embedder.shape.batch_tokens)
        pieces = self._turns.plan(budget)
        began_s = perf_counter()
        try:
            vectors = self._computed(pieces)
        except StepAborted:
            for piece in pieces:
                piece.embedding.aborted_tokens += len(piece.chunk.tokens)
            self._undo(pieces)
            return  # who left is released by the command that came before the abort; the rest is done again
        except BackendLost:
            raise
        except EngineFailed as error:
            self._isolate(pieces, error, delivery)
            return
        tokens = sum(len(piece.chunk.tokens) for piece in pieces)
        self._costs.observe_prefill(tokens, 0.0, 1e3 * (perf_counter() - began_s))
        self._told(pieces, vectors, delivery)

    def _computed(self, pieces: Sequence[Piece]) -> Sequence[Vector]:
        shares = [(piece.embedding.key, len(piece.chunk.tokens)) for piece in pieces]
        with self._current.computing(lambda: shares):
            return list(self._embedder.embed([piece.chunk for piece in pieces]))

    def _undo(self, pieces: Sequence[Piece]) -> None:
        """A step gave nothing: its inputs begin again where it has taken all of them along."""
        if not self._embedder.shape.can_undo:
            for piece in pieces:
                embedding = piece.embedding
                embedding.aborted_tokens += embedding.computed
                embedding.begin_again()

    def _isolate(self, pieces: Sequence[Piece], error: EngineFailed, delivery: Delivery) -> None:
        """A step failed: compute its pieces one by one, so that only who is at fault fails.

        Where nothing is left of its inputs that cannot be found out, and all of its tasks fail.
        """
        is_found = len(pieces) > 1 and self._embedder.shape.can_undo
        self._undo(pieces)
        for piece in pieces:
            key = piece.embedding.key
            if key not in self._running:
                continue  # another of its inputs was at fault
            try:
                if not is_found:
                    raise error
                vectors = self._computed([piece])
            except StepAborted:
                return
            except BackendLost:
                raise
            except EngineFailed as own_error:
                delivery.events.append((key, [Failed(own_error)]))
                self.release(key, delivery)
            else:
                self._told([piece], vectors, delivery)

    def _told(self, pieces: Sequence[Piece], vectors: Sequence[Vector], delivery: Delivery) -> None:
        """What a computed step says of each of its tasks."""
        told: dict[int, list[Event]] = {}
        for piece, vector in zip(pieces, vectors, strict=True):
            embedding = piece.embedding
            events = told.setdefault(embedding.key, [])
            index = embedding.index
            whole = embedding.take(piece, vector, self._embedder.shape.pooling)
            if whole is None:
                continue
            self._embedder.forget(piece.chunk.sequence)
            if not np.isfinite(whole).all():
                events.append(Failed(EngineFailed("the model computes no numbers of this input")))
            events.append(Embedded(index, whole.astype("<f4").tobytes()))
        for key, events in told.items():
            self._progress(self._running[key], events, delivery)

    def _progress(self, embedding: Embedding, events: list[Event], delivery: Delivery) -> None:
        failed = next((event for event in events if isinstance(event, Failed)), None)
        if failed is not None:
            delivery.events.append((embedding.key, [failed]))
            self.release(embedding.key, delivery)
            return
        time_ms = 1e3 * (perf_counter() - embedding.submitted_s)
        events.append(Prefill(embedding.done_tokens, embedding.total_tokens, 0, time_ms))
        if embedding.is_whole:
            events.append(Finished("stop", None, Usage(embedding.total_tokens, 0, 0)))
        delivery.events.append((embedding.key, events))
        if embedding.is_whole:
            self.release(embedding.key, delivery)
