"""Which tokens go into the next step: pure, no clock, no model, no thread.

Rules
-----
- A step either decodes, one token of every decoding lane, or prefills, up to the budget the caller gives, who
  so says whose turn it is. One batch of both would cost more than one after the other, since attention looks
  at every pairing (docs/benchmarks.md, "What a step costs").
- Of prompts the one goes first that has least left to compute, so a short one is never behind the whole of a
  long one; each token of other prompts that was computed since it came counts as one of its own, so a long
  one waits for no more than its own length of others. Among equals the oldest goes first.
- What is left of a budget behind a prompt goes to the next one only if that is done with it, or gets a chunk
  of `least_chunk` tokens: where each lane has a cache of its own, llama.cpp computes their chunks one after
  the other. And not where a prompt ends in the step and another one would make it more than LONGER times as
  long as it is by then: who waits for its first token has it sooner, and the other one hardly later. Several
  small prompts may join so, one after the other, since together they cost little more than one.
- What does not fit is computed in chunks of one size, as few as it takes, and none narrow (costs.py) that
  need not be: in a small one at the end a token would cost several times as much. Where that one alone would
  take longer than all that is left does in one step, all of it is computed at once.
- A decoding lane may bring drafted tokens along; they are verified in the same step.
- A prompt begins with what the cache has of it (cache/cache.py). If another is just computing what they
  share, it waits for that instead of computing it too.
- Who cannot begin for want of room waits, and nobody behind it takes that room.
- Where the steps of a prompt may depend on nothing but the prompt (`chunk_tokens`), a prefill step is one
  whole chunk of one lane, whatever the budget says.
- When growth outruns the cache, the youngest lane steps back: what it computed becomes a kept prefix itself,
  and later it begins again with whatever is left of that (vLLM calls this preemption by recomputation). The
  oldest never does, and one lane always fits the cache by itself, so the oldest always advances and every
  lane ends.

`plan` gives a step; `commit` says that it was computed. A step that was not is planned again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from corral.engine.local.backend import Chunk
from corral.engine.local.cache.cache import KEPT_TOKENS, CacheBooks
from corral.engine.local.cache.prefixes import common_prefix
from corral.engine.local.costs import TILE_TOKENS, WIDE_TOKENS
from corral.engine.local.lane import Lane
from corral.engine.local.pace import Load

LONGER = 1.75  # two small prompts take little longer than one, and two larger ones twice as long
PART_TOKENS = 3
"""A character may come in so many tokens; text that more of them hold back waits for something else."""


@dataclass(frozen=True, slots=True)
class Step:
    """One batch: a chunk of each lane that takes part; of `tokens` in all each looks at `depth` cells."""

    chunks: tuple[tuple[Lane, Chunk], ...]
    is_prefill: bool
    tokens: int
    depth: float = 0.0

    def shares(self) -> list[tuple[int, int]]:
        """How many of the tokens are whose, by the lanes' keys."""
        return [(lane.key, len(chunk.tokens)) for lane, chunk in self.chunks]


@dataclass(slots=True)
class Scheduler:
    """Plans steps of at most `batch_tokens` and `batch_rows` over the running lanes, oldest first."""

    cache: CacheBooks
    batch_tokens: int
    batch_rows: int
    chunk_tokens: int = 0
    """A prompt is computed in chunks that end at multiples of this; 0: as the budgets have it."""
    running: list[Lane] = field(default_factory=list)
    _prefilled: int = 0
    """Tokens of prompts computed so far: the clock by which a prompt has waited."""
    _came: dict[Lane, int] = field(default_factory=dict)
    """What it showed when each lane came, and how much later it is for what was the lane's own."""
    _decoding: list[Lane] = field(default_factory=list)
    _waiting: list[Lane] = field(default_factory=list)
    """Who decodes and who waits for its prompt, as of the last `load`."""
    _is_sorted: bool = False
    """Nothing has happened since."""

    def load(self) -> Load:
        """What waits for the next steps."""
        prefill_tokens = decode_cells = 0
        owes_text = False
        decoding: list[Lane] = []
        waiting: list[Lane] = []
        for lane in self.running:
            tokens, computed = len(lane.tokens), lane.computed
            if tokens - computed == 1 and tokens > lane.prompt_tokens:  # is_decoding, without a call for each
                decoding.append(lane)
                decode_cells += computed
                if 0 < lane.unsaid <= PART_TOKENS:
                    owes_text = True
            else:
                waiting.append(lane)
                prefill_tokens += lane.pending
        self._decoding, self._waiting, self._is_sorted = decoding, waiting, True
        if self.cache.shape.shares_cells:
            decode_depth = prefill_depth = float(self.cache.used)
        else:
            decode_depth = decode_cells / len(decoding) if decoding else 0.0
            prefill_depth = float(min(waiting, key=self._rank).computed) if waiting else 0.0
        return Load(
            decoding=len(decoding),
            prefilling=len(waiting),
            prefill_tokens=prefill_tokens,
            decode_depth=decode_depth,
            prefill_depth=prefill_depth,
            has_begun_prompts=any(lane.has_begun for lane in waiting),
            owes_text=owes_text,
        )

    def add(self, key: int, prompt: Sequence[int], *, is_scored: bool = False) -> Lane:
        """Take a prompt in. The caller never has more in at once than the cache has sequences.

        Of one that `is_scored` every token gives a row of logits.
        """
        lane = Lane.of(key, prompt, is_scored=is_scored)
        self.running.append(lane)
        self._is_sorted = False
        self._came[lane] = self._prefilled
        return lane

    def remove(self, lane: Lane) -> None:
        """Take a lane out; what is computed of it stays until its room is needed."""
        self.running.remove(lane)
        self._is_sorted = False
        del self._came[lane]
        self.cache.end(lane)

    def plan(
        self,
        prefill_tokens: int,
        drafts: Mapping[Lane, Sequence[int]] | None = None,
        *,
        least_chunk: int = 1,
    ) -> Step:
        """The next step; its chunks are empty if nothing runs.

        It prefills at most `prefill_tokens`, and decodes where these are 0 or no prompt can be computed now.
        `drafts` are guesses of the next tokens of decoding lanes; in a decode step they follow the lane's own
        token as far as there is room without forgetting anything. The cache's operations are to be done
        before it.
        """
        if not self._is_sorted:
            self.load()
        self._is_sorted = False
        budget = self.chunk_tokens or min(prefill_tokens, self.batch_tokens)
        least_chunk = 1 if self.cache.shape.shares_cells else least_chunk
        chunks = self._prefill_chunks(budget, least_chunk) if prefill_tokens else []
        is_prefill = bool(chunks)
        chunks = chunks or self._decode_chunks(drafts or {})
        self.cache.trim(len(self.running))
        tokens, cells = _size(chunks)
        depth = float(self.cache.used) if self.cache.shape.shares_cells else cells / max(1, tokens)
        return Step(tuple(chunks), is_prefill, tokens, depth)

    def commit(self, step: Step) -> None:
        """The step's chunks are in the cache now."""
        if step.tokens == len(step.chunks):  # as nearly every step that decodes
            self.cache.grow_each([lane for lane, _ in step.chunks])
        else:
            for lane, chunk in step.chunks:
                self.cache.grow(lane, len(chunk.tokens))
        if step.is_prefill:
            self._prefilled += step.tokens
            for lane, chunk in step.chunks:
                self._came[lane] += len(chunk.tokens)

    # Decode

    def _decode_chunks(self, drafts: Mapping[Lane, Sequence[int]]) -> list[tuple[Lane, Chunk]]:
        decoding = self._with_room()
        if not drafts:
            return [
                (lane, Chunk(lane.sequence, lane.computed, lane.tokens[-1:], 1))
                for lane in decoding
                if lane.sequence is not None
            ]
        spare = min(self.cache.free, self.batch_tokens, self.batch_rows) - len(decoding)
        chunks: list[tuple[Lane, Chunk]] = []
        for lane in decoding:
            assert lane.sequence is not None
            tokens = lane.tokens[-1:]
            if (draft := drafts.get(lane)) and spare > 0:
                tokens += draft[:spare]
                spare -= len(tokens) - 1
            chunks.append((lane, Chunk(lane.sequence, lane.computed, tokens, len(tokens))))
        return chunks

    def _with_room(self) -> list[Lane]:
        """Who decodes, each with a free cell: kept prefixes leave, then the youngest steps back."""
        decoding = [lane for lane in self._decoding if lane.sequence is not None]  # others stepped back
        while self.cache.free < len(decoding):
            if not self.cache.evict():
                self.cache.end(self._youngest())
                decoding = [lane for lane in decoding if lane.is_decoding]
        return decoding

    def _youngest(self) -> Lane:
        return next(lane for lane in reversed(self.running) if lane.has_begun)

    # Prefill

    def _prefill_chunks(self, budget: int, least_chunk: int) -> list[tuple[Lane, Chunk]]:
        chunks: list[tuple[Lane, Chunk]] = []
        taken = rows = 0
        may_begin = True
        for lane in sorted(self._waiting, key=self._rank):
            if taken >= budget:
                break
            if not lane.has_begun:
                if not may_begin:
                    continue
                source = self.cache.find(lane)
                if self._is_being_computed(lane, source.length):
                    continue
                pending = len(lane.tokens) - source.length
                if chunks and self._delays(chunks, taken, self._own(pending, budget - taken)):
                    break  # before what was found for it is loaded
                may_begin = self.cache.begin(lane, source)
                if not may_begin:
                    continue
            start = lane.computed
            own = self._own(lane.pending, budget - taken)
            if not self.chunk_tokens and self._takes_rest(lane, own, self.batch_tokens - taken):
                own = lane.pending
            if chunks and (own < min(lane.pending, least_chunk) or self._delays(chunks, taken, own)):
                break
            stop = start + own
            if lane.wants_scores:
                stop = min(stop, start + max(1, self.batch_rows - rows - len(self.running)))
            if not self._reserve(taken + stop - start, lane, [planned for planned, _ in chunks]):
                break
            assert lane.sequence is not None
            taken += stop - start
            own_rows = stop - start if lane.wants_scores else int(stop == len(lane.tokens))
            rows += own_rows
            chunks.append((lane, Chunk(lane.sequence, start, lane.tokens[start:stop], own_rows)))
            if self.chunk_tokens:
                break
        return chunks

    def _own(self, pending: int, room: int) -> int:
        """How much of what a lane has left goes into a step that has room for so much."""
        return min(room if self.chunk_tokens else _even(pending, room), pending, room)

    def _takes_rest(self, lane: Lane, own: int, room: int) -> bool:
        """Whether all that a lane has left takes no longer in one step than the rest of it would alone."""
        pending, costs = lane.pending, self.cache.costs
        rest = pending - own
        return (
            0 < rest < WIDE_TOKENS <= own
            and pending <= room
            and costs.prefill_ms(rest, lane.computed + own) >= costs.prefill_ms(pending, lane.computed)
        )

    def _delays(self, chunks: Sequence[tuple[Lane, Chunk]], taken: int, own: int) -> bool:
        """Whether the end of a prompt would come much later with `own` more tokens in a step of `taken`."""
        costs = self.cache.costs
        ends = any(chunk.position + len(chunk.tokens) == len(lane.tokens) for lane, chunk in chunks)
        return ends and costs.prefill_ms(taken + own) > LONGER * costs.prefill_ms(taken)

    def _rank(self, lane: Lane) -> int:
        """The least goes first."""
        return lane.pending - (self._prefilled - self._came[lane])

    def _is_being_computed(self, lane: Lane, found: int) -> bool:
        """Somebody will soon have computed a longer prefix of this than was `found`."""
        if not self.cache.reuses_beginnings:
            return False
        promised = max(
            (
                self.cache.reusable(common_prefix(other.prompt, lane.wanted))
                for other in self._waiting
                if other.has_begun and other.computed < other.prompt_tokens
            ),
            default=0,
        )
        return promised >= KEPT_TOKENS and promised > found

    def _reserve(self, cells: int, lane: Lane, planned: Sequence[Lane]) -> bool:
        """See to free cells for a chunk; False if there is none left but those of its elders and of who is
        `planned`: `lane` may have stepped back for them itself."""
        while self.cache.free < cells:
            if not self.cache.evict():
                youngest = self._youngest()
                if youngest in planned:
                    return False
                self.cache.end(youngest)
            if not lane.has_begun:
                return False
        return True


def _size(chunks: list[tuple[Lane, Chunk]]) -> tuple[int, int]:
    """Of a batch: its tokens, and the cells of their own sequences that they all look at together."""
    tokens = cells = 0
    for _, chunk in chunks:
        own = len(chunk.tokens)
        tokens += own
        cells += chunk.position * own
    return tokens, cells


def _even(pending: int, room: int) -> int:
    """The first of as few equal chunks as it takes, in whole tiles; none is narrow if all can be wide."""
    chunks = -(-pending // room)
    chunk = -(-pending // chunks)
    whole = chunk + -chunk % TILE_TOKENS
    if chunk < WIDE_TOKENS:
        return max(whole, min(WIDE_TOKENS, room))
    return whole if pending - (chunks - 1) * whole >= WIDE_TOKENS else chunk
