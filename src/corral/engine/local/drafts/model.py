"""Drafts by a smaller model with the same vocabulary, for all sequences at once.

The small model has a cache of its own. Before it drafts for a sequence, that cache is brought to what the
sequence says: what was drafted and refused is cut off, what was said since is added, and a prompt it has
not seen yet is taken in chunks, one per step, so that no step of the large model waits long. Then it picks
greedily, one batched step of the small model per token. Its guesses are only ever compared with what the
large model's sampler picks, so they never change what is said.
"""

from collections.abc import Sequence as TokenSequence
from dataclasses import dataclass, field

from corral.engine.local.backend import Backend, Chunk, Sampler
from corral.engine.local.scheduler import Sequence
from corral.errors import EngineFailed, StartupError
from corral.request import Sampling

CATCH_UP_TOKENS = 64  # of a prompt, per step
LONGEST_DRAFT_TOKENS = 8
REST_STEPS = 32  # without a draft, for a sequence whose drafts do not pay
PAYS = 0.4  # accepted of drafted tokens; below it a draft costs more than it saves
SMOOTHING = 0.2


@dataclass(slots=True)
class _Drafted:
    """What the small model's cache holds of a sequence, and how its drafts fared."""

    id: int
    tokens: list[int] = field(default_factory=list)
    draft_tokens: int = 4
    accepted_share: float = 1.0
    rest: int = 0


class DraftModel:
    """Drafts on `backend` for at most as many sequences as it has. Not thread-safe: the worker owns it."""

    def __init__(self, backend: Backend, target: Backend) -> None:
        """Raises StartupError if the two models do not share their vocabulary."""
        if list(backend.model.vocabulary.pieces) != list(target.model.vocabulary.pieces):
            raise StartupError("the draft model has another vocabulary than the model")
        if not backend.cache.shape.can_cut:
            raise StartupError("the draft model's memory cannot be cut, so wrong drafts could not be undone")
        self._backend = backend
        self._greedy: Sampler = backend.sampler(Sampling(temperature=0), ())
        self._free = list(range(backend.cache.shape.sequences - 1, -1, -1))
        self._known: dict[Sequence, _Drafted] = {}

    def propose(self, wants: dict[Sequence, int]) -> dict[Sequence, list[int]]:
        """At most so many tokens for each decoding sequence; none where they do not pay. Never raises.

        A step of the small model that fails costs its drafts, nothing else.
        """
        ready: dict[Sequence, int] = {}
        behind: list[Chunk] = []
        room = self._backend.batch_tokens
        try:
            for sequence, limit in wants.items():
                drafted = self._of(sequence)
                if drafted is None or self._rests(drafted) or room < CATCH_UP_TOKENS:
                    continue
                missing = self._align(drafted, sequence.tokens)
                is_ready = len(missing) <= CATCH_UP_TOKENS
                if is_ready:
                    ready[sequence] = min(limit, drafted.draft_tokens)
                missing = missing[:CATCH_UP_TOKENS]
                room -= len(missing)
                behind.append(Chunk(drafted.id, len(drafted.tokens), missing, rows=int(is_ready)))
                drafted.tokens += missing
            return self._draft(behind, ready)
        except EngineFailed:
            for sequence in wants:
                self.forget(sequence)
            return {}

    def observe(self, sequence: Sequence, drafted_tokens: int, accepted_tokens: int) -> None:
        """Learn from a verified draft."""
        drafted = self._known.get(sequence)
        if drafted is None or drafted_tokens == 0:
            return
        share = accepted_tokens / drafted_tokens
        drafted.accepted_share += SMOOTHING * (share - drafted.accepted_share)
        if share == 1.0:
            drafted.draft_tokens = min(drafted.draft_tokens + 2, LONGEST_DRAFT_TOKENS)
        else:
            drafted.draft_tokens = max(1, accepted_tokens + 1)
        if drafted.accepted_share < PAYS:
            drafted.rest, drafted.accepted_share = REST_STEPS, 1.0

    def forget(self, sequence: Sequence) -> None:
        """The sequence runs no more; harmless if it is not known."""
        drafted = self._known.pop(sequence, None)
        if drafted is not None:
            self._backend.cache.remove(drafted.id, 0)
            self._free.append(drafted.id)

    def close(self) -> None:
        """Free the small model."""
        self._greedy.close()
        self._backend.close()

    def _of(self, sequence: Sequence) -> _Drafted | None:
        drafted = self._known.get(sequence)
        if drafted is None and self._free:
            drafted = self._known[sequence] = _Drafted(self._free.pop())
        return drafted

    def _rests(self, drafted: _Drafted) -> bool:
        drafted.rest -= drafted.rest > 0
        return drafted.rest > 0

    def _align(self, drafted: _Drafted, tokens: TokenSequence[int]) -> list[int]:
        """Cut off what was refused; returns what is missing, at least the last token, for its logits."""
        length = min(len(drafted.tokens), len(tokens) - 1)
        while length > 0 and drafted.tokens[length - 1] != tokens[length - 1]:
            length -= 1  # only a draft can differ, so this ends after at most its length
        if length < len(drafted.tokens):
            self._backend.cache.remove(drafted.id, length)
            del drafted.tokens[length:]
        return list(tokens[length:])

    def _draft(self, behind: list[Chunk], ready: dict[Sequence, int]) -> dict[Sequence, list[int]]:
        drafts: dict[Sequence, list[int]] = {sequence: [] for sequence in ready}
        chunks = behind
        going = list(ready)
        while chunks:
            self._backend.decode(chunks)
            # Only drafting sequences have a row, and `going` lists them in the order of their chunks.
            for row, sequence in enumerate(going):
                drafts[sequence].append(self._greedy.sample(row))
            going = [sequence for sequence in going if len(drafts[sequence]) < ready[sequence]]
            chunks = []
            for sequence in going:
                drafted, token = self._known[sequence], drafts[sequence][-1]
                chunks.append(Chunk(drafted.id, len(drafted.tokens), [token], rows=1))
                drafted.tokens.append(token)
        return {sequence: draft for sequence, draft in drafts.items() if draft}
