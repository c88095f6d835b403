"""Which tokens go into the next step, and what the KV cache keeps: pure, no clock, no model, no thread.

Rules
-----
- A step either decodes, one token of every decoding sequence, or prefills, first come first served up
  to the budget the caller gives. Where there is both, they take turns: so a prompt never stops a
  stream, the budget bounds by how much it slows one, and tokens go out before the prompt's turn. Only a
  burst of prompts that the caller knows to be short is done first.
  One batch of both would cost more: 16 streams and 64 prompt tokens take 176 ms together and 107 ms
  one after the other (SmolLM2-135M on 2 cores), since attention looks at every pairing.
- A decoding sequence may bring drafted tokens along; they are verified in the same step.
- A prompt *begins* with the longest prefix that the cache holds, of a sequence that has ended or one that
  runs. If somebody in front of it is just computing what they share, it waits for that instead of
  computing it too.
- It begins only when all of it fits, with some room for the others to grow, so a prefill that was begun
  can be completed. What ended sequences left makes room for it, least recently used first; what a
  running one shares does not, since it costs nothing.
- Making room is moving out: a remainder is saved to the host's memory and loaded again when a prompt begins
  with it. That takes 2 us a token each way where computing takes 1,000 (SmolLM2-135M on 2 cores), so
  remainders move out as soon as they would slow the running ones, not only when the cells are needed.
- When growth outruns the pool, the youngest sequence steps back: it becomes such a remainder itself, and
  later begins again with whatever is left of it (vLLM calls this preemption by recomputation). The oldest
  never does, and one sequence always fits the pool by itself, so the oldest always advances and every
  sequence ends.

`plan` gives a step; `commit` says that it was computed, `abandon` that it was not.
"""

from collections.abc import Sequence as TokenSequence
from dataclasses import dataclass, field

import numpy as np

from corral.engine.local.backend import Chunk
from corral.engine.local.cache.cells import CellTable
from corral.engine.local.cache.operations import Copy, Drop, Forget, Load, MemoryOperation
from corral.engine.local.cache.prefixes import PrefixCache, Tokens, common_prefix
from corral.engine.local.cache.saved import SavedStates

GROWTH_TOKENS = 16  # room left to each running sequence before another prompt may begin
FULL_SHARE_RUNNING = 4  # so many sequences run beside all remainders; twice as many beside half of them
KEPT_TOKENS = 8  # a remainder shorter than this is not worth a sequence id
LOADED_SHARE = 8  # a saved state is loaded if at least one in so many of its tokens is wanted


@dataclass(slots=True, eq=False)
class Sequence:
    """One running sequence: `tokens` is the prompt and then what was sampled; `computed` of them lie in the
    cache, `cached_tokens` of those were found there. `id` is its sequence in the cache, None before it
    begins."""

    prompt: Tokens
    tokens: list[int]
    id: int | None = None
    computed: int = 0
    cached_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt)

    @property
    def has_begun(self) -> bool:
        return self.id is not None

    @property
    def pending(self) -> int:
        """Tokens that are not in the cache yet."""
        return len(self.tokens) - self.computed

    @property
    def is_decoding(self) -> bool:
        return self.pending == 1 and len(self.tokens) > len(self.prompt)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a computed prefix lies: in a `sequence` of the cache, or in a saved `state`."""

    length: int
    sequence: int | None = None
    state: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One batch: first the memory operations in order, then a chunk of each sequence that takes part."""

    memory: tuple[MemoryOperation, ...]
    chunks: tuple[tuple[Sequence, Chunk], ...]
    is_prefill: bool

    @property
    def tokens(self) -> int:
        return sum(len(chunk.tokens) for _, chunk in self.chunks)


@dataclass(slots=True)
class Scheduler:
    """Plans steps over the running sequences, oldest first, in a cache of `ctx_tokens` and `sequences`.

    `can_cut` says whether the model's memory can be cut at any position; if not, a prefix is reused only
    where all of a remainder is one. `reuses_prefixes` off forgets every sequence when it ends. Unless the
    cache `shares_cells`, a remainder takes all of its room, whoever begins alike. Remainders
    beyond `remainder_tokens` leave the cache, one a step and never the newest, and the sooner the more
    sequences run: attention passes over every cell in use, for each of them. `saved_tokens` of those that
    left are kept outside.
    """

    sequences: int
    ctx_tokens: int
    batch_tokens: int
    can_cut: bool = True
    reuses_prefixes: bool = True
    shares_cells: bool = True
    remainder_tokens: int | None = None
    saved_tokens: int = 0
    running: list[Sequence] = field(default_factory=list)
    cache: PrefixCache = field(default_factory=PrefixCache)
    saved: SavedStates = field(init=False)
    cells: CellTable = field(init=False)
    _free_ids: list[int] = field(init=False)
    _memory: list[MemoryOperation] = field(default_factory=list)
    _is_prefill_turn: bool = False

    def __post_init__(self) -> None:
        self.cells = CellTable(self.ctx_tokens, self.sequences)
        self.saved = SavedStates(self.saved_tokens, can_cut=self.can_cut, memory=self._memory)
        self._free_ids = list(range(self.sequences - 1, -1, -1))

    @property
    def decodes_next(self) -> bool:
        """Whether the next step may decode, and so may carry drafts."""
        return not self._is_prefill_turn or all(sequence.is_decoding for sequence in self.running)

    @property
    def decoding(self) -> int:
        return sum(sequence.is_decoding for sequence in self.running)

    def add(self, prompt: TokenSequence[int]) -> Sequence:
        """Take a prompt in. The caller never has more of them in at once than there are `sequences`."""
        sequence = Sequence(prompt=np.array(prompt, np.int32), tokens=list(prompt))
        self.running.append(sequence)
        return sequence

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out; what is computed of it stays as a remainder until its room is needed."""
        self.running.remove(sequence)
        self._step_back(sequence)

    @property
    def prefill_left(self) -> int:
        """Prompt tokens that are still to be computed, unless they are found in the cache."""
        return sum(sequence.pending for sequence in self.running if not sequence.is_decoding)

    def plan(
        self,
        prefill_tokens: int,
        drafts: dict[Sequence, list[int]] | None = None,
        *,
        holds_decoding: bool = False,
    ) -> Step:
        """The next step, with at most `prefill_tokens` of prefill; its chunks are empty if nothing runs.

        With `holds_decoding` it is a prefill step, whosever turn it is. `drafts` are guesses of the next
        tokens of decoding sequences; in a decode step they follow the sequence's own token as far as the
        cache has room without forgetting anything.
        """
        is_prefill = not self.decoding or self._is_prefill_turn or holds_decoding
        self._is_prefill_turn = not is_prefill
        chunks = self._prefill_chunks(min(prefill_tokens, self.batch_tokens)) if is_prefill else []
        is_prefill = bool(chunks)
        chunks = chunks or self._decode_chunks(drafts or {})
        self._trim()
        return Step(self._take_memory(), tuple(chunks), is_prefill)

    def commit(self, step: Step) -> None:
        """The step's chunks are in the cache now."""
        for sequence, chunk in step.chunks:
            self.cells.append(chunk.sequence, len(chunk.tokens))
            sequence.computed = chunk.position + len(chunk.tokens)

    def cut(self, sequence: Sequence, length: int) -> None:
        """Drafted tokens from position `length` on were wrong; the caller takes them out of the cache."""
        assert sequence.id is not None
        self.cells.truncate(sequence.id, length)
        sequence.computed = length

    def pending_memory(self) -> tuple[MemoryOperation, ...]:
        """Memory operations that no step has taken along yet."""
        return self._take_memory()

    # Decode

    def _decode_chunks(self, drafts: dict[Sequence, list[int]]) -> list[tuple[Sequence, Chunk]]:
        self._make_room()
        decoding = [sequence for sequence in self.running if sequence.is_decoding]
        spare = min(self.cells.free, self.batch_tokens) - len(decoding)
        chunks: list[tuple[Sequence, Chunk]] = []
        for sequence in decoding:
            assert sequence.id is not None
            draft = drafts.get(sequence, [])[: max(spare, 0)]
            spare -= len(draft)
            tokens = [sequence.tokens[-1], *draft]
            chunks.append((sequence, Chunk(sequence.id, sequence.computed, tokens, len(tokens))))
        return chunks

    def _make_room(self) -> None:
        """A free cell for every decoding sequence: remainders leave, then the youngest steps back."""
        while self.cells.free < self.decoding:
            if not self._evict():
                self._step_back(self._youngest())

    def _youngest(self) -> Sequence:
        return next(sequence for sequence in reversed(self.running) if sequence.has_begun)

    # Prefill

    def _prefill_chunks(self, budget: int) -> list[tuple[Sequence, Chunk]]:
        chunks: list[tuple[Sequence, Chunk]] = []
        may_begin = True
        for index, sequence in enumerate(self.running):
            if budget <= 0:
                break
            if sequence.is_decoding:
                continue
            if not sequence.has_begun:
                if not may_begin or self._is_being_computed(sequence, self.running[:index]):
                    continue
                if not self._begin(sequence):
                    may_begin = False  # nobody overtakes it into the room it waits for
                    continue
            assert sequence.id is not None
            start = sequence.computed
            stop = start + min(sequence.pending, budget)
            if not self._reserve(stop - start + sum(len(chunk.tokens) for _, chunk in chunks), sequence):
                break
            budget -= stop - start
            is_last = stop == len(sequence.tokens)
            chunks.append((sequence, Chunk(sequence.id, start, sequence.tokens[start:stop], int(is_last))))
        return chunks

    def _reserve(self, cells: int, sequence: Sequence) -> bool:
        """See to free cells for a chunk; False if `sequence` itself had to step back for its elders."""
        while self.cells.free < cells:
            if not self._evict():
                self._step_back(self._youngest())
            if not sequence.has_begun:
                return False
        return True

    def _is_being_computed(self, sequence: Sequence, ahead: list[Sequence]) -> bool:
        """Somebody ahead will soon have computed a longer prefix of this than anybody has now."""
        if not (self.can_cut and self.reuses_prefixes):
            return False
        tokens = np.array(sequence.tokens[:-1], np.int32)
        promised = max(
            (
                common_prefix(other.prompt, tokens)
                for other in ahead
                if other.has_begun and other.computed < len(other.prompt)
            ),
            default=0,
        )
        if promised < KEPT_TOKENS:
            return False
        return self._source(tokens).length < promised

    def _source(self, tokens: Tokens) -> _Source:
        """Where the longest computed prefix of `tokens` lies; of length 0 if nobody shares any."""
        best = _Source(0)
        if (remainder := self.cache.longest(tokens, whole_only=not self.can_cut)) is not None:
            best = _Source(remainder[1], sequence=remainder[0])
        if self.can_cut and self.reuses_prefixes:
            for other in self.running:
                if other.id is not None:
                    length = min(common_prefix(other.prompt, tokens), other.computed)
                    if length > best.length:
                        best = _Source(length, sequence=other.id)
        if (saved := self.saved.longest(tokens, whole_only=not self.can_cut)) is not None:
            state, length = saved
            if length > best.length and length * LOADED_SHARE >= self.saved.length(state):
                best = _Source(length, state=state)
        return best

    def _begin(self, sequence: Sequence) -> bool:
        """Give a sequence its id and the prefix that is there already, if all the rest of it fits."""
        tokens = np.array(sequence.tokens[:-1], np.int32)  # the last one must be computed, for its logits
        source = self._source(tokens)
        begun = [other for other in self.running if other.has_begun]
        promised = sum(other.pending for other in begun) + GROWTH_TOKENS * len(begun)
        if self._cells_needed(sequence, source) + promised > self.cells.reclaimable:
            return False
        loaded = None
        if source.state is not None:
            loaded = self.saved.tokens(source.state)
            self.saved.drop(source.state)  # or making room for it might cost it its own place
        if not self._free_ids and not self._evict(spare=source.sequence):
            source = _Source(0)  # the source itself is the only one that can make room
            self._evict()
        sequence.id = self._free_ids.pop()
        self.cells.pin(sequence.id)
        if source.sequence is not None:
            self._share(source.sequence, sequence.id, source.length)
        elif source.state is not None and loaded is not None:
            self._load(source.state, loaded, sequence.id, source.length)
        sequence.computed = sequence.cached_tokens = source.length
        return True

    def _cells_needed(self, sequence: Sequence, source: _Source) -> int:
        """Cells that are neither free nor reclaimable any more once `sequence` is computed from `source`."""
        if source.state is not None:
            return max(len(sequence.tokens), self.saved.length(source.state))
        shared = 0 if source.sequence is None else self.cells.unpinned(source.sequence, source.length)
        return len(sequence.tokens) - source.length + shared

    def _share(self, source: int, target: int, length: int) -> None:
        self.cells.share(source, target, length)
        self._memory.append(Copy(source, target, length))
        if source in self.cache:
            self.cache.touch(source)
            if self.cache.length(source) == length:
                self._forget(source)  # the new sequence has all of it

    def _load(self, state: int, tokens: Tokens, target: int, length: int) -> None:
        while self.cells.free < len(tokens):
            evicted = self._evict()
            assert evicted, "it was said to fit"
        self.cells.append(target, len(tokens))
        self.cells.truncate(target, length)
        self._memory.append(Load(state, target, length))
        if length == len(tokens):
            self._memory.append(Drop(state))  # the new sequence has all of it
        else:
            self.saved.keep(state, tokens)

    # Remainders

    def _step_back(self, sequence: Sequence) -> None:
        """Make a running sequence a remainder; if it runs on, it will begin again."""
        if sequence.id is None:
            return
        id, sequence.id = sequence.id, None
        tokens = np.array(sequence.tokens[: sequence.computed], np.int32)
        self.cells.unpin(id)
        sequence.computed = 0
        is_covered = self.can_cut and self.cache.covers(tokens)
        if self.reuses_prefixes and len(tokens) >= KEPT_TOKENS and not is_covered:
            self.cache.add(id, tokens)
        else:
            self._release(id)

    def _trim(self) -> None:
        if self.remainder_tokens is None:
            return
        limit = self.remainder_tokens // max(1, len(self.running) // FULL_SHARE_RUNNING)
        kept = self.cells.reclaimable - self.cells.free if self.shares_cells else self.cache.total
        if len(self.cache) > 1 and kept > limit:
            self._evict()

    def _evict(self, spare: int | None = None) -> bool:
        """Move the least recently used remainder out of the cache; False if there is none but `spare`."""
        oldest = next((sequence for sequence in self.cache if sequence != spare), None)
        if oldest is None:
            return False
        self.saved.save(oldest, self.cache.tokens(oldest))
        self._forget(oldest)
        return True

    def _forget(self, id: int) -> None:
        self.cache.drop(id)
        self._release(id)

    def _release(self, id: int) -> None:
        self.cells.truncate(id, 0)
        self._free_ids.append(id)
        self._memory.append(Forget(id))

    def _take_memory(self) -> tuple[MemoryOperation, ...]:
        taken = tuple(self._memory)
        self._memory.clear()
        return taken
