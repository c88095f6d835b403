"""Which tokens go into the next step: pure, no clock, no model, no thread.

Rules
-----
- A sequence is *decoding* when all but its newest token are in the KV cache, and *prefilling* before.
- A step either decodes, one token of every decoding sequence, or prefills, first come first served up
  to the budget the caller gives. Where there is both, they take turns: so a prompt never stops a
  stream, the budget bounds by how much it slows one, and tokens go out before the prompt's turn.
  One batch of both would cost more: 16 streams and 64 prompt tokens take 176 ms together and 107 ms
  one after the other (SmolLM2-135M on 2 cores), since attention looks at every pairing.
- The cache is one pool of cells shared by all sequences. A sequence *holds* cells for all its tokens
  from its first chunk on, so a prefill that was begun can be completed. It begins only when its whole
  prompt fits, with some room for the others to grow.
- When growth outruns the pool, the youngest sequence gives up its cells and computes them again later
  (vLLM calls this preemption by recomputation). The oldest never does, and one sequence always fits
  the pool by itself, so the oldest always advances and every sequence ends.

`plan` and `commit` come in pairs; a plan that is not committed changes nothing but who holds cells.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from corral.engine.backend import Chunk

GROWTH_TOKENS = 16  # room left to each running sequence before another prompt may begin


@dataclass(slots=True, eq=False)
class Sequence:
    """One sequence of the KV cache: its tokens, and how many of them are computed.

    `tokens` is the prompt and then what was sampled; `computed` of them lie in the cache.
    """

    slot: int
    tokens: list[int]
    prompt_tokens: int
    computed: int = 0
    holds_cells: bool = False

    @property
    def pending(self) -> int:
        """Tokens that are not in the cache yet."""
        return len(self.tokens) - self.computed

    @property
    def is_decoding(self) -> bool:
        return self.pending == 1 and len(self.tokens) > self.prompt_tokens

    @property
    def held_cells(self) -> int:
        return len(self.tokens) if self.holds_cells else 0


@dataclass(frozen=True, slots=True)
class Step:
    """One batch: a chunk of each sequence that takes part, and who lost its cells to make room."""

    chunks: tuple[tuple[Sequence, Chunk], ...]
    preempted: tuple[Sequence, ...]

    @property
    def tokens(self) -> int:
        return sum(len(chunk.tokens) for _, chunk in self.chunks)

    @property
    def is_prefill(self) -> bool:
        return any(not sequence.is_decoding for sequence, _ in self.chunks)


@dataclass(slots=True)
class Scheduler:
    """Plans steps over `slots` sequences that share `ctx_tokens` cells, oldest sequence first."""

    slots: int
    ctx_tokens: int
    batch_tokens: int
    running: list[Sequence] = field(default_factory=list)
    _free_slots: list[int] = field(init=False)
    _is_prefill_turn: bool = False

    def __post_init__(self) -> None:
        self._free_slots = list(range(self.slots - 1, -1, -1))

    @property
    def free_slots(self) -> int:
        return len(self._free_slots)

    @property
    def has_decoding(self) -> bool:
        return any(sequence.is_decoding for sequence in self.running)

    @property
    def held_cells(self) -> int:
        return sum(sequence.held_cells for sequence in self.running)

    def add(self, prompt: Iterable[int]) -> Sequence:
        """Give a prompt the lowest free slot. The caller never adds more than `slots`."""
        tokens = list(prompt)
        sequence = Sequence(slot=self._free_slots.pop(), tokens=tokens, prompt_tokens=len(tokens))
        self.running.append(sequence)
        return sequence

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out and free its slot; what the cache holds of it is the caller's to forget."""
        self.running.remove(sequence)
        self._free_slots.append(sequence.slot)

    def plan(self, prefill_tokens: int) -> Step:
        """The next step, with at most `prefill_tokens` of prefill; its chunks are empty if nothing runs."""
        preempted = tuple(self._make_room())
        decoding = [
            (sequence, Chunk(sequence.slot, sequence.computed, sequence.tokens[-1:], wants_logits=True))
            for sequence in self.running
            if sequence.is_decoding
        ]
        if decoding and not self._is_prefill_turn:
            self._is_prefill_turn = True
            return Step(tuple(decoding), preempted)
        self._is_prefill_turn = False
        prefilling = self._prefill_chunks(min(prefill_tokens, self.batch_tokens))
        return Step(tuple(prefilling or decoding), preempted)

    def commit(self, step: Step) -> None:
        """The step's chunks are in the cache now."""
        for sequence, chunk in step.chunks:
            sequence.computed = chunk.position + len(chunk.tokens)

    def _prefill_chunks(self, budget: int) -> list[tuple[Sequence, Chunk]]:
        chunks: list[tuple[Sequence, Chunk]] = []
        for sequence in self.running:
            if budget <= 0:
                break
            if sequence.is_decoding:
                continue
            if not sequence.holds_cells and not self._begin(sequence):
                break  # nobody overtakes it into the room it waits for
            start = sequence.computed
            stop = start + min(sequence.pending, budget)
            budget -= stop - start
            is_last = stop == len(sequence.tokens)
            chunks.append((sequence, Chunk(sequence.slot, start, sequence.tokens[start:stop], is_last)))
        return chunks

    def _make_room(self) -> list[Sequence]:
        preempted: list[Sequence] = []
        held = self.held_cells
        for sequence in reversed(self.running):
            if held <= self.ctx_tokens:
                break
            if sequence.holds_cells:
                held -= sequence.held_cells
                sequence.holds_cells = False
                sequence.computed = 0
                preempted.append(sequence)
        return preempted

    def _begin(self, sequence: Sequence) -> bool:
        holders = sum(other.holds_cells for other in self.running)
        room = self.ctx_tokens - self.held_cells - GROWTH_TOKENS * holders
        sequence.holds_cells = len(sequence.tokens) <= room
        return sequence.holds_cells
