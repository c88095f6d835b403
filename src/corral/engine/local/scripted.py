"""A deterministic backend for tests: bytes are tokens, and a script says what comes next.

It keeps a real cache: `decode` stores tokens by sequence and position and insists on contiguity, and the
script sees what the cache holds, not what the engine believes. So an engine that loses, repeats or mixes
up tokens changes the text. What a step costs, whether it fails and when it returns is up to `on_step`.
"""

import math
from collections.abc import Callable, Sequence
from itertools import count
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from corral.engine.local.backend import (
    BackendLost,
    CacheShape,
    ChatFormat,
    Chunk,
    Embedder,
    EmbedShape,
    Infill,
    Pooling,
    SavedSequence,
    StepAborted,
)
from corral.engine.local.costs import StepTime
from corral.engine.local.prompts.contract import Prompts
from corral.errors import EngineFailed
from corral.events import TokenLogprob
from corral.request import Sampling

START, END = 256, 257
CONTROL_TEXTS = {"<|im_start|>": START, "<|im_end|>": END}
ANSWER = bytes("assistant\n", "ascii")

Script = Callable[[Sequence[int]], int]
"""From all tokens of a sequence to its next one."""


def rambling(tokens: Sequence[int]) -> int:
    """Endless lower-case text in which every letter depends on all tokens before it."""
    state = 0
    for token in tokens:
        state = (state * 31 + token + 1) % 1_000_003
    return 97 + state % 26


def babble(tokens: Sequence[int]) -> int:
    """Endless text at constant cost per token, for benchmarks."""
    return 97 + len(tokens) % 26


def replying(reply: Callable[[str], str | bytes]) -> Script:
    """A script that answers a rendered conversation with `reply(conversation)` and then ends."""

    def script(tokens: Sequence[int]) -> int:
        start = len(tokens) - 1 - tokens[::-1].index(START) + 1 + len(ANSWER)
        conversation = b"".join(bytes([token]) if token < START else b"\n" for token in tokens[:start])
        answer = reply(conversation.decode())
        raw = answer if isinstance(answer, bytes) else answer.encode()
        position = len(tokens) - start
        return raw[position] if position < len(raw) else END

    return script


class ByteVocabulary:
    """Tokens 0 to 255 are the bytes; then come ChatML's two control tokens."""

    bos: int | None = None
    pieces = (*(bytes([value]) for value in range(256)), b"", b"")
    end_tokens = frozenset({END})
    user_texts: ClassVar[dict[str, int]] = {}
    infill: Infill | None = None
    closers: tuple[int, ...] = ()
    strips_left = frozenset[int]()
    strips_right = frozenset[int]()

    def __init__(self) -> None:
        self.control_texts = CONTROL_TEXTS

    def tokenize(self, text: str, *, parse_control: bool, continues: bool = False) -> list[int]:
        if not parse_control:
            return list(text.encode())
        tokens: list[int] = []
        while text:
            at, control = min(
                ((text.find(control), control) for control in CONTROL_TEXTS if control in text),
                default=(len(text), ""),
            )
            tokens += text[:at].encode()
            if control:
                tokens.append(CONTROL_TEXTS[control])
            text = text[at + len(control) :]
        return tokens


class ScriptedModel:
    """Speaks ChatML, in bytes."""

    prompts: Prompts | None = None

    def __init__(self) -> None:
        self.vocabulary = ByteVocabulary()
        self.chat_format = ChatFormat(template=None, bos_text="", eos_text="<|im_end|>")

    def make_ready(self, sampling: Sampling) -> None:
        pass


class ScriptedCache:
    """Tokens by sequence and position, and the cells they lie in; insists that it is used as it should be.

    `counts_cells` off looks at no cells, since counting them costs more than any model does.
    """

    def __init__(self, shape: CacheShape, *, counts_cells: bool = True) -> None:
        self.shape = shape
        self.saves = 0
        """How many sequences were saved so far."""
        self._counts_cells = counts_cells
        self._tokens: dict[int, list[int]] = {}
        self._cells: dict[int, list[int]] = {}
        self._next_cell = count()

    @property
    def used_cells(self) -> int:
        """Cells that some sequence holds; a shared one counts once."""
        return len({cell for cells in self._cells.values() for cell in cells})

    def length(self, sequence: int) -> int:
        return len(self._tokens.get(sequence, ()))

    def append(self, chunk: Chunk) -> list[int]:
        """Take a chunk in; all tokens of its sequence, a list that grows with it."""
        assert chunk.position == self.length(chunk.sequence), "a chunk leaves a gap or overlaps"
        self._check_room(len(chunk.tokens))
        tokens = self._tokens.setdefault(chunk.sequence, [])
        tokens.extend(chunk.tokens)
        self._take_cells(chunk.sequence, len(chunk.tokens))
        return tokens

    def copy(self, source: int, target: int, length: int) -> None:
        assert not self.length(target), "the target of a copy is not empty"
        assert length <= self.length(source)
        assert length == self.length(source) or self.shape.can_cut, "this memory cannot be cut"
        self._tokens[target] = self._tokens[source][:length]
        self._cells[target] = self._cells.get(source, [])[:length]

    def remove(self, sequence: int, start: int) -> None:
        if sequence in self._tokens:
            assert start in (0, self.length(sequence)) or self.shape.can_cut, "this memory cannot be cut"
            del self._tokens[sequence][start:]
            del self._cells[sequence][start:]

    def save(self, sequence: int) -> SavedSequence:
        self.saves += 1
        return np.array(self._tokens[sequence], np.int32).view(np.uint8)

    def load(self, saved: SavedSequence, target: int) -> None:
        assert not self.length(target), "the target of a load is not empty"
        tokens = saved.view(np.int32).tolist()
        if self._counts_cells and self.used_cells + len(tokens) > self.shape.ctx_tokens:
            raise BackendLost("cells run out")
        self._tokens[target] = tokens
        self._take_cells(target, len(tokens))

    def clear(self) -> None:
        """Forget everything."""
        self._tokens.clear()
        self._cells.clear()

    def _check_room(self, tokens: int) -> None:
        if self._counts_cells:
            assert self.used_cells + tokens <= self.shape.ctx_tokens, "cells run out"

    def _take_cells(self, sequence: int, number: int) -> None:
        cells = self._cells.setdefault(sequence, [])
        if self._counts_cells:
            cells.extend(next(self._next_cell) for _ in range(number))


class ScriptedSampler:
    """What the script says, or the next token where that may not be."""

    def __init__(self, backend: "ScriptedBackend", sampling: Sampling) -> None:
        self._backend = backend
        self._sampling = sampling
        self._sampled_tokens = 0
        backend.open_samplers += 1

    def sample(self, row: int, allowed: NDArray[np.bool_] | None = None) -> int:
        token = self._backend.script(self._backend.rows[row])
        if allowed is not None and not allowed[token]:
            token = int(np.flatnonzero(allowed)[0])
        vocabulary, sampling = self._backend.model.vocabulary, self._sampling
        self._sampled_tokens += 1
        is_early = self._sampled_tokens <= sampling.min_tokens
        while (token in vocabulary.end_tokens and (is_early or sampling.ignores_end)) or (
            token in sampling.stop_tokens and is_early
        ):
            token = (token + 1) % len(vocabulary.pieces)
        return token

    def close(self) -> None:
        self._backend.open_samplers -= 1


class ScriptedEmbedder:
    """Every token's vector depends on all before it, so who loses or mixes up tokens changes a text's."""

    def __init__(self, backend: "ScriptedBackend", shape: EmbedShape) -> None:
        self.shape = shape
        self.steps: list[tuple[Chunk, ...]] = []
        self._backend = backend
        self._held: dict[int, list[int]] = {}

    def embed(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        try:
            self._backend.on_step(chunks)
            if self._backend.is_aborting:
                raise StepAborted
        except (EngineFailed, StepAborted):
            if not self.shape.can_undo:
                for chunk in chunks:
                    self.forget(chunk.sequence)
            raise
        self.steps.append(tuple(chunks))
        assert 0 < sum(len(chunk.tokens) for chunk in chunks) <= self.shape.batch_tokens
        assert len({chunk.sequence for chunk in chunks}) == len(chunks) <= self.shape.sequences
        vectors = []
        for chunk in chunks:
            held = self._held.setdefault(chunk.sequence, [])
            assert chunk.position == len(held), "a chunk leaves a gap or overlaps"
            assert self.shape.can_split or not held, "this input cannot be split"
            own = []
            for token in chunk.tokens:
                held.append(token)
                own.append(self.token_vector(held))
            vectors.append(self.pooled(own))
        assert sum(map(len, self._held.values())) <= self.shape.cells, "cells run out"
        return np.array(vectors, np.float32)

    def forget(self, sequence: int) -> None:
        self._held.pop(sequence, None)

    @property
    def held_tokens(self) -> int:
        """Of inputs that are not done."""
        return sum(map(len, self._held.values()))

    def token_vector(self, tokens: Sequence[int]) -> NDArray[np.float64]:
        """That of the last of these tokens."""
        return np.random.default_rng(list(tokens)).standard_normal(self.shape.dimensions)

    def pooled(self, vectors: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        match self.shape.pooling:
            case "mean":
                mean: NDArray[np.float64] = np.mean(vectors, axis=0)
                return mean
            case "cls":
                return vectors[0]
            case "last":
                return vectors[-1]


def embeds(
    *,
    pooling: Pooling = "mean",
    dimensions: int = 8,
    input_tokens: int = 256,
    batch_tokens: int = 64,
    sequences: int = 16,
    cells: int = 256,
    can_split: bool = True,
    can_undo: bool = True,
) -> EmbedShape:
    """A shape for tests."""
    return EmbedShape(pooling, dimensions, input_tokens, batch_tokens, sequences, cells, can_split, can_undo)


class ScriptedBackend:
    """Runs `script` over a cache of `ctx_tokens` cells, and embeds if it gets a shape for that.

    `on_step(chunks)` is called on the worker's thread before a step takes effect; it may block, or raise
    EngineFailed. `steps` keeps every batch for tests to look at, unless `keep_steps` is off.
    """

    def __init__(
        self,
        script: Script = rambling,
        *,
        ctx_tokens: int = 4096,
        sequence_ctx_tokens: int | None = None,
        batch_tokens: int = 512,
        batch_rows: int = 512,
        sequences: int = 32,
        can_cut: bool = True,
        shares_cells: bool = True,
        token_bytes: int = 4,
        counts_cells: bool = True,
        on_step: Callable[[Sequence[Chunk]], None] | None = None,
        keep_steps: bool = True,
        generates: bool = True,
        embeds: EmbedShape | None = None,
    ) -> None:
        self.script = script
        self.model = ScriptedModel()
        self.batch_tokens = batch_tokens
        self.batch_rows = batch_rows
        self.steps: list[tuple[Chunk, ...]] = []
        self.rows: list[list[int]] = []
        """Of each row of the last step, all tokens up to the one that it follows."""
        self.open_samplers = 0
        self.is_aborting = False
        self.cache = ScriptedCache(
            CacheShape(
                ctx_tokens=ctx_tokens,
                sequence_ctx_tokens=sequence_ctx_tokens or ctx_tokens,
                sequences=sequences,
                can_cut=can_cut,
                shares_cells=shares_cells,
                token_bytes=token_bytes,
            ),
            counts_cells=counts_cells,
        )
        self._on_step = on_step
        self._keep_steps = keep_steps
        self.generates = generates
        self.scripted_embedder = None if embeds is None else ScriptedEmbedder(self, embeds)

    @property
    def embedder(self) -> Embedder | None:
        return self.scripted_embedder

    def on_step(self, chunks: Sequence[Chunk]) -> None:
        """Before a step takes effect."""
        if self._on_step is not None:
            self._on_step(chunks)

    def warm_up(self) -> Sequence[StepTime]:
        """There is nothing to be found out."""
        return ()

    def decode(self, chunks: Sequence[Chunk]) -> None:
        assert self.generates
        self.on_step(chunks)
        if self.is_aborting:
            raise StepAborted
        if self._keep_steps:
            self.steps.append(tuple(chunks))
        assert 0 < sum(len(chunk.tokens) for chunk in chunks) <= self.batch_tokens
        assert sum(chunk.rows for chunk in chunks) <= self.batch_rows
        self.rows = []
        for chunk in chunks:
            tokens = self.cache.append(chunk)
            if chunk.rows == 1:
                self.rows.append(tokens)
            else:
                end = len(tokens) - chunk.rows
                self.rows += [tokens[: end + row + 1] for row in range(chunk.rows)]

    def logprobs(self, row: int, token: int, top: int) -> TokenLogprob:
        """The script is certain: its token has probability 1/2, its successors half of the one before."""
        pieces = self.model.vocabulary.pieces
        ranked = [(token + rank) % 256 for rank in range(max(top, 1))]
        entries = [TokenLogprob(pieces[t], -(rank + 1) * math.log(2)) for rank, t in enumerate(ranked)]
        return TokenLogprob(entries[0].raw, entries[0].logprob, tuple(entries[:top]))

    def sampler(self, sampling: Sampling, prompt: Sequence[int]) -> ScriptedSampler:
        return ScriptedSampler(self, sampling)

    def abort(self) -> None:
        self.is_aborting = True

    def rearm(self) -> None:
        self.is_aborting = False

    def reset(self) -> None:
        self.cache.clear()
        if self.scripted_embedder is not None:
            self.scripted_embedder = ScriptedEmbedder(self, self.scripted_embedder.shape)

    def close(self) -> None:
        self.cache.clear()
