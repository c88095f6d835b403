"""Vectors of texts by llama.cpp: a context of its own over the weights that the backend has loaded.

A model that attends backwards only is fed a text in chunks, as a prompt is, over a small KV cache; llama.cpp
pools the vectors of each chunk, and the caller joins them. One that attends in both directions has to see a
text as a whole, in one pass: so a text may be no longer than a step. It keeps no memory of it, and cannot
generate.
"""

from __future__ import annotations  # the bindings define their pointer types for type checkers only

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from corral.engine.local.backend import BackendLost, Chunk, EmbedShape, Pooling
from corral.engine.local.llama import log
from corral.engine.local.llama.abort import AbortFlag
from corral.engine.local.llama.batch import Batch
from corral.engine.local.llama.fault import decode_failure
from corral.engine.local.llama.model import LlamaModel
from corral.engine.local.llama.options import FLASH_ATTN, KV_TYPES, LlamaOptions
from corral.errors import StartupError

INPUT_TOKENS = 8192
"""Longest input where no setting says how long a context is, as with OpenAI."""

WHOLE_TOKENS = 2048
"""The same, of a model that has to see it in one pass, which takes memory by the square of this."""

CHUNK_TOKENS = range(64, 257)
"""How many a step may have where inputs can be split: above it a token costs hardly less."""

CHUNK_BYTES, WHOLE_BYTES = 2**27, 2**29
"""For the logits of a step, which llama.cpp makes room for, of every token, though nobody wants them."""

LEAST_BATCH_TOKENS = 512
SEQUENCES = 32
"""Inputs in a step."""

STATES = 4
"""The same, of a model that keeps a state for each, which may be large."""

POOLINGS: dict[Pooling, int] = {
    "mean": llama_cpp.LLAMA_POOLING_TYPE_MEAN,
    "cls": llama_cpp.LLAMA_POOLING_TYPE_CLS,
    "last": llama_cpp.LLAMA_POOLING_TYPE_LAST,
}


@dataclass(frozen=True, slots=True)
class EmbedPlan:
    """What an embedder will be: its shape, and its KV cache in tokens, 0 if it has none. Beside that it takes
    `step_bytes`, while it computes and for what comes out of it.
    """

    shape: EmbedShape
    ctx_tokens: int
    step_bytes: int


def plan(model: LlamaModel, options: LlamaOptions) -> EmbedPlan | None:
    """What a model can do of this; None if it has no way to pool, or shall not. Raises StartupError."""
    pooling = _pooling(model, options)
    if pooling is None:
        return None
    can_split = model.generates
    row_bytes = 4 * len(model.vocabulary.pieces)
    if can_split:
        input_tokens = min(model.train_tokens, options.ctx_tokens or INPUT_TOKENS)
        batch_tokens = min(max(CHUNK_BYTES // row_bytes, CHUNK_TOKENS[0]), CHUNK_TOKENS[-1])
    else:
        limit = min(max(WHOLE_BYTES // row_bytes, LEAST_BATCH_TOKENS), WHOLE_TOKENS)
        input_tokens = min(model.train_tokens, options.ctx_tokens or limit)
        batch_tokens = max(input_tokens, LEAST_BATCH_TOKENS)
    cells = max(input_tokens, batch_tokens)
    shape = EmbedShape(
        pooling=pooling,
        dimensions=model.vector_dimensions,
        input_tokens=input_tokens,
        batch_tokens=batch_tokens,
        sequences=STATES if model.keeps_state else SEQUENCES,
        cells=cells,
        can_split=can_split,
        can_undo=model.can_cut or not can_split,
    )
    return EmbedPlan(shape, cells if model.generates else 0, 2 * batch_tokens * row_bytes)


def _pooling(model: LlamaModel, options: LlamaOptions) -> Pooling | None:
    if options.pooling == "off":
        found = None
    elif options.pooling != "auto":
        found = next(pooling for pooling in POOLINGS if pooling == options.pooling)
    elif model.pooling == llama_cpp.LLAMA_POOLING_TYPE_RANK:
        raise StartupError("the model ranks texts, and makes neither text nor vectors: that is not supported")
    else:
        found = next((pooling for pooling, own in POOLINGS.items() if own == model.pooling), None)
    if found is None and not model.generates:
        raise StartupError(
            "the model keeps no memory of a text, so it cannot generate one; to have it make vectors of "
            "texts, say how those of a text's tokens become one: --pooling mean or --pooling cls"
        )
    return found


class LlamaEmbedder:
    """A context for vectors. The flag aborts its steps too. Raises StartupError if it cannot be made."""

    def __init__(self, model: LlamaModel, plan: EmbedPlan, options: LlamaOptions, abort: AbortFlag) -> None:
        self.shape = plan.shape
        self._reads_only = not model.generates
        self._batch = Batch(plan.shape.batch_tokens)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = max(plan.shape.cells, plan.shape.batch_tokens)
        params.n_batch = params.n_ubatch = plan.shape.batch_tokens
        params.n_seq_max = plan.shape.sequences
        params.n_threads = params.n_threads_batch = options.threads or os.cpu_count() or 1
        params.flash_attn_type = FLASH_ATTN[options.flash_attn]
        params.type_k = KV_TYPES[options.kv_type_k].ggml
        params.type_v = KV_TYPES[options.kv_type_v].ggml
        params.kv_unified = True
        params.swa_full = False
        params.embeddings = True
        params.pooling_type = POOLINGS[plan.shape.pooling]
        params.no_perf = True
        with log.quietly():
            context: llama_cpp.llama_context_p | None = llama_cpp.llama_init_from_model(model.pointer, params)
        if context is None:
            raise StartupError(f"llama.cpp cannot make a context for vectors of texts: {log.reason()}")
        self._context = context
        self._memory = llama_cpp.llama_get_memory(context)
        abort.install(context)

    def embed(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        ids = [chunk.sequence for chunk in chunks]
        self._batch.fill(chunks, ids)
        compute = llama_cpp.llama_encode if self._reads_only else llama_cpp.llama_decode
        code = compute(self._context, self._batch.struct)
        if code != 0:
            if self._memory is not None:
                for chunk in chunks:
                    start = chunk.position if self.shape.can_undo else -1
                    llama_cpp.llama_memory_seq_rm(self._memory, chunk.sequence, start, -1)
            raise decode_failure(code)
        return np.array([self._vector(id) for id in ids], np.float32)

    def forget(self, sequence: int) -> None:
        if self._memory is not None:
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def close(self) -> None:
        """Free the context, before its model; once."""
        llama_cpp.llama_free(self._context)

    def _vector(self, id: int) -> NDArray[np.float32]:
        pointer = llama_cpp.llama_get_embeddings_seq(self._context, id)
        if not pointer:
            raise BackendLost("llama.cpp has no vector of an input that it computed")
        buffer = (ctypes.c_float * self.shape.dimensions).from_address(ctypes.addressof(pointer.contents))
        return np.array(np.ctypeslib.as_array(buffer))
