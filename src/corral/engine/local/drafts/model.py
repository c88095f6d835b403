"""Guesses by a smaller model with the same vocabulary, for all lanes at once.

The small model has a cache of its own. Before it drafts for a lane, that cache is brought to what the lane
says: what was refused is cut off, what was said since is added, and a prompt that it has not seen yet is
taken in chunks, so that no step of the large model waits long for it. Then it picks greedily, one batched
step of the small model per token. Its costs are learned like the large model's, and a draft is as long as
pays for both (drafts/room.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

from corral.engine.local.backend import Backend, BackendLost, Chunk, Sampler
from corral.engine.local.costs import SEED, Costs
from corral.engine.local.drafts.proposer import BEST, Chance
from corral.engine.local.drafts.room import DraftRoom, Offer
from corral.engine.local.lane import Lane
from corral.errors import EngineFailed, StartupError
from corral.request import Sampling

REST_STEPS = 32  # without a draft, for a lane whose drafts do not pay
CATCH_UP_STEPS = 2.0  # of the large model: so long it may wait while the small one reads
SMALLER = 0.2  # what a step of the small model may cost by one of the large, before any was measured


@dataclass(slots=True)
class _Drafted:
    """What the small model's cache holds of a lane, in which sequence, and how its drafts fared."""

    sequence: int
    tokens: list[int] = field(default_factory=list)
    chance: Chance = field(default_factory=Chance)
    rest: int = 0


class DraftModel:
    """A Proposer on `backend`, for at most as many lanes as that has sequences.

    It owns what it puts into `backend` and no more: the caller closes that after this. Where the backend is
    lost it is begun again, and where that fails there are no more drafts.
    """

    def __init__(self, backend: Backend, target: Backend, costs: Costs | None = None) -> None:
        """Raises StartupError if the two models do not go together."""
        if list(backend.model.vocabulary.pieces) != list(target.model.vocabulary.pieces):
            raise StartupError("the draft model has another vocabulary than the model")
        if not backend.cache.shape.can_cut:
            raise StartupError("the draft model's memory cannot be cut, so wrong drafts could not be undone")
        self._backend = backend
        self._costs = costs or Costs(replace(SEED, unit_ms=SMALLER * SEED.unit_ms))
        self._greedy: Sampler | None = backend.sampler(Sampling(temperature=0), ())
        """None where the backend was lost for good, or closed."""
        self._free = self._all_sequences()
        self._known: dict[Lane, _Drafted] = {}

    def propose(self, wants: Mapping[Lane, int], room: DraftRoom) -> dict[Lane, list[int]]:
        if self._greedy is None or not wants:
            return {}
        try:
            return self._draft(*self._catch_up(wants, room), self._greedy)
        except BackendLost:
            self._begin_again()
        except EngineFailed:
            for lane in wants:
                self.forget(lane)
        return {}

    def observe(self, lane: Lane, drafted: int, accepted: int) -> None:
        known = self._known.get(lane)
        if known is not None:
            known.chance.observe(drafted, accepted)

    def forget(self, lane: Lane) -> None:
        known = self._known.pop(lane, None)
        if known is None:
            return
        self._free.append(known.sequence)
        try:
            self._backend.cache.remove(known.sequence, 0)
        except BackendLost:
            self._begin_again()

    def close(self) -> None:
        """Let go of the backend; there are no drafts any more."""
        if self._greedy is not None:
            self._greedy.close()
            self._greedy = None

    def _begin_again(self) -> None:
        self.close()
        self._known.clear()
        self._free = self._all_sequences()
        try:
            self._backend.reset()
            self._greedy = self._backend.sampler(Sampling(temperature=0), ())
        except EngineFailed:
            pass  # what is said does not depend on drafts

    def _all_sequences(self) -> list[int]:
        return list(range(self._backend.cache.shape.sequences - 1, -1, -1))

    def _catch_up(self, wants: Mapping[Lane, int], room: DraftRoom) -> tuple[list[Chunk], dict[Lane, int]]:
        """What the small model has to read first, and how many tokens it is to draft for whom after that."""
        chunks: list[Chunk] = []
        offers: list[Offer] = []
        budget = self._costs.prefill_tokens(CATCH_UP_STEPS * room.step_ms, 0, self._backend.batch_tokens)
        for lane, limit in wants.items():
            known = self._of(lane)
            if known is None or budget <= 0 or self._rests(known):
                continue
            missing = self._align(known, lane.tokens)
            if len(missing) <= budget:
                offers.append(Offer(lane, min(known.chance.value, BEST), limit))
            else:
                missing = missing[:budget]
                chunks.append(self._chunk(known, missing, rows=0))
            budget -= len(missing)
        lengths = room.share(offers, self._costs.step_ms(max(1, len(offers)))) if offers else {}
        for offer in offers:
            known = self._known[offer.lane]
            if offer.lane in lengths:
                chunks.append(self._chunk(known, offer.lane.tokens[len(known.tokens) :], rows=1))
            else:
                known.rest, known.chance = REST_STEPS, Chance()
        return chunks, lengths

    def _chunk(self, known: _Drafted, tokens: Sequence[int], rows: int) -> Chunk:
        """More tokens for the small model's cache."""
        chunk = Chunk(known.sequence, len(known.tokens), tokens, rows)
        known.tokens += tokens
        return chunk

    def _of(self, lane: Lane) -> _Drafted | None:
        known = self._known.get(lane)
        if known is None and self._free:
            known = self._known[lane] = _Drafted(self._free.pop())
        return known

    def _rests(self, known: _Drafted) -> bool:
        known.rest -= known.rest > 0
        return known.rest > 0

    def _align(self, known: _Drafted, tokens: Sequence[int]) -> list[int]:
        """Cut off what was refused; returns what is missing, at least the last token, for its logits."""
        length = min(len(known.tokens), len(tokens) - 1)
        while length > 0 and known.tokens[length - 1] != tokens[length - 1]:
            length -= 1  # only a draft can differ, so this ends after at most its length
        if length < len(known.tokens):
            self._backend.cache.remove(known.sequence, length)
            del known.tokens[length:]
        return list(tokens[length:])

    def _draft(
        self, chunks: list[Chunk], lengths: Mapping[Lane, int], greedy: Sampler
    ) -> dict[Lane, list[int]]:
        drafts: dict[Lane, list[int]] = {lane: [] for lane in lengths}
        going = list(lengths)
        while chunks:
            self._decode(chunks)
            # Only drafting lanes have a row, and `going` lists them in the order of their chunks.
            for row, lane in enumerate(going):
                drafts[lane].append(greedy.sample(row))
            going = [lane for lane in going if len(drafts[lane]) < lengths[lane]]
            chunks = []
            for lane in going:
                chunks.append(self._chunk(self._known[lane], drafts[lane][-1:], rows=1))
        return drafts

    def _decode(self, chunks: list[Chunk]) -> None:
        """Compute a step of the small model, and learn what it cost."""
        tokens = sum(len(chunk.tokens) for chunk in chunks)
        depth = sum(chunk.position * len(chunk.tokens) for chunk in chunks) / tokens
        began_s = perf_counter()
        self._backend.decode(chunks)
        elapsed_ms = 1e3 * (perf_counter() - began_s)
        if tokens == len(chunks):
            self._costs.observe_step(tokens, depth, elapsed_ms)
        else:
            self._costs.observe_prefill(tokens, depth, elapsed_ms)
