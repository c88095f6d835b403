"""llama.cpp behind the Backend protocol, on the low-level API of llama-cpp-python.

Logits are read in place from llama.cpp's buffer. How sequences lie in memory is kv_cache.py's, how a batch
is laid out batch.py's.
"""

from __future__ import annotations  # the bindings define their pointer types for type checkers only

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from corral.engine.local.backend import CacheShape, Chunk, Embedder, Sampler
from corral.engine.local.costs import StepTime
from corral.engine.local.llama import log
from corral.engine.local.llama.abort import AbortFlag
from corral.engine.local.llama.batch import Batch
from corral.engine.local.llama.embedder import EmbedPlan, LlamaEmbedder, plan
from corral.engine.local.llama.fault import decode_failure
from corral.engine.local.llama.fit import check_device, check_fits, is_split, kv_cache_bytes
from corral.engine.local.llama.kv_cache import LlamaCache, NoCache, SplitCache, UnifiedCache
from corral.engine.local.llama.model import LlamaModel
from corral.engine.local.llama.options import FLASH_ATTN, KV_TYPES, LlamaOptions
from corral.engine.local.llama.rehearsal import Rehearsal
from corral.engine.local.llama.sampler import ChainSampler, GreedySampler, TopKSampler
from corral.engine.local.prompts.contract import Prompts
from corral.errors import EngineFailed, StartupError
from corral.events import TokenLogprob
from corral.request import Sampling

BATCH_TOKENS = 512  # what llama.cpp computes in one pass: its micro-batch
AUTO_CTX_TOKENS = 32_768
KEPT_SEQUENCES = 32  # sequences beside the running ones, for prefixes to be reused
MAX_SEQUENCES = 256  # llama.cpp's LLAMA_MAX_SEQ
DRAFT_ROWS = 16  # rows of logits for drafts, beside two of each slot


class LlamaBackend:
    """A loaded model and one context, or one for vectors of texts, or both. Loading blocks, from tenths of a
    second to minutes.

    Raises StartupError, with llama.cpp's own reason, if the model or its context cannot be made, or is not
    `is_wanted` any more.
    """

    def __init__(
        self,
        path: Path,
        options: LlamaOptions,
        prompts: Prompts | None = None,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        check_device(options)
        self.model = LlamaModel(path, options.gpu_layers, prompts=prompts, is_wanted=is_wanted)
        self.batch_tokens = max(BATCH_TOKENS, options.slots)
        self._options = options
        self._abort = AbortFlag()
        self._batch = Batch(self.batch_tokens)
        self._vocabulary_tokens = len(self.model.vocabulary.pieces)
        self._logits: NDArray[np.float32] = np.empty((0, self._vocabulary_tokens), np.float32)
        """Of the last step, in llama.cpp's buffer: [rows, vocabulary]."""
        self._logits_views: dict[tuple[int, int], NDArray[np.float32]] = {}
        self._open_context: llama_cpp.llama_context_p | None = None
        """None where there is nothing to generate with, and nothing to free."""
        self._embedder: LlamaEmbedder | None = None
        try:
            self._embed_plan = plan(self.model, options)
            self._shape, self._is_split = _shape(self.model, options, self._embed_plan)
            ctx_tokens, beside_bytes = self._shape.ctx_tokens if self.generates else 0, 0
            if self._embed_plan is not None:
                ctx_tokens += self._embed_plan.ctx_tokens
                beside_bytes = self._embed_plan.step_bytes
            check_fits(self.model.pointer, ctx_tokens, options, beside_bytes)
            self.batch_rows = max(self._shape.sequences, 2 * options.slots + DRAFT_ROWS)
            self.cache = self._open()
        except StartupError:
            self._free()
            self.model.close()
            raise

    @property
    def generates(self) -> bool:
        return self.model.generates

    @property
    def embedder(self) -> Embedder | None:
        return self._embedder

    @property
    def summary(self) -> str:
        """What it runs on and how much it holds, for people: slots, context, memory, threads or GPU."""
        options, shape = self._options, self._shape
        parts = []
        if self.generates:
            kept = f"one KV cache of {shape.ctx_tokens:,}" if shape.shares_cells else "a KV cache for each"
            slots = "1 slot" if options.slots == 1 else f"{options.slots} slots"
            parts.append(f"{slots} of up to {shape.sequence_ctx_tokens:,} tokens")
            parts.append(f"{kept}, {shape.token_bytes * shape.ctx_tokens / 1e6:,.0f} MB")
        if self._embedder is not None:
            parts.append(f"vectors of texts of up to {self._embedder.shape.input_tokens:,} tokens")
        parts.append(f"weights {llama_cpp.llama_model_size(self.model.pointer) / 1e6:,.0f} MB")
        threads = options.threads or os.cpu_count() or 1
        parts.append(f"{threads} threads" if threads > 1 else "1 thread")
        layers = {-1: "all layers"}.get(options.gpu_layers, f"{options.gpu_layers} layers")
        parts.append("on the CPU" if options.gpu_layers == 0 else f"{layers} on the GPU")
        return "; ".join(parts)

    def warm_up(self) -> Sequence[StepTime]:
        token = self.model.vocabulary.bos or 0
        if self._embedder is not None:
            self._warm_up_embedder(self._embedder, token)
        if not self.generates:
            return ()
        rehearsal = Rehearsal(self.decode, lambda sequence: self.cache.remove(sequence, 0), token)
        try:
            self.decode([Chunk(0, 0, [token], 1)])
            self._check_numbers()
            self.cache.remove(0, 0)
            return rehearsal.run(
                most_rows=self._options.slots,
                most_tokens=min(self.batch_tokens, self._shape.sequence_ctx_tokens),
            )
        except EngineFailed as error:
            raise StartupError(f"the model cannot compute a single token: {error.message}") from error

    def _check_numbers(self) -> None:
        if np.isnan(self._row(0)).any():
            raise StartupError(
                "the model computes no numbers: its weights are damaged, or not for this build"
            )

    def _warm_up_embedder(self, embedder: LlamaEmbedder, token: int) -> None:
        try:
            vectors = embedder.embed([Chunk(0, 0, [token], 1)])
        except EngineFailed as error:
            raise StartupError(f"the model cannot embed a single token: {error.message}") from error
        if not np.isfinite(vectors).all():
            raise StartupError("the vectors that the model makes are no numbers: its weights are damaged")
        embedder.forget(0)

    def decode(self, chunks: Sequence[Chunk]) -> None:
        rows = self._batch.fill(chunks, self.cache.place([chunk.sequence for chunk in chunks]))
        code = llama_cpp.llama_decode(self._context, self._batch.struct)
        if code != 0:
            for chunk in chunks:  # whole micro-batches of an aborted step stay in memory
                self.cache.remove(chunk.sequence, chunk.position)
            raise decode_failure(code)
        if rows:
            self._logits = self._logits_view(rows)

    def logprobs(self, row: int, token: int, top: int) -> TokenLogprob:
        logits = self._row(row).astype(np.float64)
        logits -= logits.max()
        logits -= np.log(np.exp(logits).sum())
        best = np.argpartition(logits, -top)[-top:] if top else np.empty(0, np.intp)
        ranked = best[np.argsort(-logits[best], kind="stable")]
        pieces = self.model.vocabulary.pieces
        return TokenLogprob(
            pieces[token],
            float(logits[token]),
            tuple(TokenLogprob(pieces[other], float(logits[other])) for other in ranked.tolist()),
        )

    def sampler(self, sampling: Sampling, prompt: Sequence[int]) -> Sampler:
        if GreedySampler.serves(sampling):
            return GreedySampler(self._row, sampling, self.model.vocabulary.end_tokens)
        if TopKSampler.serves(sampling, self._vocabulary_tokens):
            return TopKSampler(self._row, sampling, self.model)
        return ChainSampler(self._context, self.model, sampling, prompt, self._row, self._batch.index_of_row)

    def abort(self) -> None:
        log.set_quiet(True)  # llama.cpp reports an abort as an error
        self._abort.set()

    def rearm(self) -> None:
        self._abort.clear()
        log.set_quiet(False)

    def reset(self) -> None:
        self._free()
        try:
            self.cache = self._open()
        except StartupError as error:
            raise EngineFailed(str(error)) from error

    def close(self) -> None:
        self._free()
        self.model.close()

    def _row(self, row: int) -> NDArray[np.float32]:
        """Logits of a row in the order of the chunks, [vocabulary]."""
        view: NDArray[np.float32] = self._logits[self._batch.output_of_row(row)]
        return view

    @property
    def _context(self) -> llama_cpp.llama_context_p:
        assert self._open_context is not None, "the context is lost, and could not be made anew"
        return self._open_context

    def _open(self) -> LlamaCache:
        """Make the contexts, and the cache in the one that generates. Raises StartupError."""
        if self._embed_plan is not None:
            self._embedder = LlamaEmbedder(self.model, self._embed_plan, self._options, self._abort)
        if not self.generates:
            return NoCache(self._shape)
        options, shape = self._options, self._shape
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = shape.ctx_tokens
        params.n_batch = self.batch_tokens
        params.n_ubatch = BATCH_TOKENS
        params.n_seq_max = options.slots if self._is_split else shape.sequences
        params.n_outputs_max = self.batch_rows  # else llama.cpp sets aside the logits of a whole batch
        params.swa_full = False
        params.n_threads = params.n_threads_batch = options.threads or os.cpu_count() or 1
        params.flash_attn_type = FLASH_ATTN[options.flash_attn]
        params.type_k = KV_TYPES[options.kv_type_k].ggml
        params.type_v = KV_TYPES[options.kv_type_v].ggml
        params.kv_unified = not self._is_split
        params.no_perf = True
        context: llama_cpp.llama_context_p | None = llama_cpp.llama_init_from_model(
            self.model.pointer, params
        )
        if context is None:
            raise StartupError(
                f"llama.cpp cannot make a context of {shape.ctx_tokens} tokens: {log.reason()}"
            )
        self._open_context = context
        memory = llama_cpp.llama_get_memory(context)
        if memory is None:
            raise StartupError("the model keeps no memory of a text, so it cannot generate one")
        self._abort.install(context)
        # llama.cpp rounds the context up to its padding: what is beyond the asked-for size is not used.
        shape = replace(shape, ctx_tokens=min(shape.ctx_tokens, llama_cpp.llama_n_ctx(context)))
        if self._is_split:
            return SplitCache(context, memory, shape, options.slots)
        return UnifiedCache(context, memory, shape)

    def _free(self) -> None:
        self._logits_views.clear()
        if self._embedder is not None:
            embedder, self._embedder = self._embedder, None
            embedder.close()
        if self._open_context is not None:
            context, self._open_context = self._open_context, None
            llama_cpp.llama_free(context)

    def _logits_view(self, rows: int) -> NDArray[np.float32]:
        pointer = llama_cpp.llama_get_logits(self._context)
        address = ctypes.addressof(pointer.contents)
        view = self._logits_views.get((address, rows))
        if view is None:
            # The buffer moves when llama.cpp grows it: views of the old one must not be used again.
            self._logits_views = {key: v for key, v in self._logits_views.items() if key[0] == address}
            buffer = (ctypes.c_float * (rows * self._vocabulary_tokens)).from_address(address)
            view = np.ctypeslib.as_array(buffer).reshape(rows, self._vocabulary_tokens)
            self._logits_views[address, rows] = view
        return view


def _shape(model: LlamaModel, options: LlamaOptions, embeds: EmbedPlan | None) -> tuple[CacheShape, bool]:
    """How large a KV cache shall be, and whether it is split."""
    if not model.generates:
        assert embeds is not None, "a model that neither generates nor embeds is not opened"
        tokens = embeds.shape.input_tokens
        return CacheShape(ctx_tokens=tokens, sequence_ctx_tokens=tokens, sequences=options.slots), False
    ctx_tokens = options.ctx_tokens or min(model.train_tokens, AUTO_CTX_TOKENS)
    sequence_ctx_tokens = min(ctx_tokens, model.train_tokens)
    splits = is_split(model.pointer, sequence_ctx_tokens, options)
    # A model without attention has no cells, but a state.
    token_bytes = max(1, kv_cache_bytes(model.pointer, 1, options.kv_type_k, options.kv_type_v))
    shape = CacheShape(
        ctx_tokens=sequence_ctx_tokens * options.slots if splits else ctx_tokens,
        sequence_ctx_tokens=sequence_ctx_tokens,
        sequences=min(options.slots + KEPT_SEQUENCES, MAX_SEQUENCES),
        can_cut=model.can_cut,
        shares_cells=not splits,
        token_bytes=token_bytes,
    )
    return shape, splits
