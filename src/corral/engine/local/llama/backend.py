"""llama.cpp behind the Backend protocol, on the low-level API of llama-cpp-python.

The batch arrays are numpy arrays made once and filled by slices; logits are read in place from llama.cpp's
buffer. How sequences lie in memory is kv_cache.py's.
"""

from __future__ import annotations  # the bindings define their pointer types for type checkers only

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from corral.engine.local.backend import BackendLost, ChatFormat, Chunk, Sampler, SavedSequence, StepAborted
from corral.engine.local.llama import log
from corral.engine.local.llama.abort import AbortFlag
from corral.engine.local.llama.fault import load_failure
from corral.engine.local.llama.fit import check_fits, is_split, kv_cache_bytes
from corral.engine.local.llama.kv_cache import KvCache, SplitCache, UnifiedCache
from corral.engine.local.llama.sampler import ChainSampler, GreedySampler, TopKSampler
from corral.engine.local.llama.vocabulary import LlamaVocabulary
from corral.errors import EngineFailed, StartupError
from corral.events import TokenLogprob
from corral.request import Sampling

BATCH_TOKENS = 512
AUTO_CTX_TOKENS = 32_768
REMAINDERS = 32  # sequences beside the running ones, for prefixes to be reused
MAX_SEQUENCES = 256  # llama.cpp's LLAMA_MAX_SEQ
ROWS = 16  # rows of logits a step may have beside one of each slot, for drafted tokens

_FLASH_ATTN = {
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
_GGML_TYPE_BF16 = 30  # missing from the bindings
_KV_TYPES = {
    "f32": llama_cpp.GGML_TYPE_F32,
    "f16": llama_cpp.GGML_TYPE_F16,
    "bf16": _GGML_TYPE_BF16,
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q5_1": llama_cpp.GGML_TYPE_Q5_1,
    "q5_0": llama_cpp.GGML_TYPE_Q5_0,
    "q4_1": llama_cpp.GGML_TYPE_Q4_1,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
}


@dataclass(frozen=True, slots=True)
class LlamaOptions:
    """What llama.cpp is told; the fields are those of Settings, and 0 or -1 mean what they mean there."""

    slots: int
    ctx_tokens: int = 0
    threads: int = 0
    gpu_layers: int = 0
    flash_attn: str = "auto"
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    kv_cache: str = "auto"


class LlamaBackend:
    """A loaded model and one context. Loading blocks, from tenths of a second to minutes.

    Raises StartupError, with llama.cpp's own reason, if the model or its context cannot be made.
    """

    def __init__(self, path: Path, options: LlamaOptions) -> None:
        log.install()
        llama_cpp.llama_backend_init()
        self._model = _load_model(path, options)
        train_tokens = llama_cpp.llama_model_n_ctx_train(self._model)
        ctx_tokens = options.ctx_tokens or min(train_tokens, AUTO_CTX_TOKENS)
        self.sequence_ctx_tokens = min(ctx_tokens, train_tokens)
        self._is_split = is_split(self._model, self.sequence_ctx_tokens, options)
        self.shares_cells = not self._is_split
        self.ctx_tokens = self.sequence_ctx_tokens * options.slots if self._is_split else ctx_tokens
        self.batch_tokens = max(BATCH_TOKENS, options.slots)
        self.sequences = min(options.slots + REMAINDERS, MAX_SEQUENCES)
        self.can_cut = _can_cut(self._model)
        # A model without attention has no cells, but a state.
        self.token_bytes = max(1, kv_cache_bytes(self._model, 1, options.kv_type_k, options.kv_type_v))
        self._options = options
        self._abort = AbortFlag()
        try:
            check_fits(self._model, self.ctx_tokens, options)
            self._open_context()
        except StartupError:
            llama_cpp.llama_model_free(self._model)
            raise
        # llama.cpp rounds the context up to its padding.
        self.ctx_tokens = min(self.ctx_tokens, llama_cpp.llama_n_ctx(self._context))
        self.vocabulary = LlamaVocabulary(self._model)
        template = llama_cpp.llama_model_chat_template(self._model, None)
        self.chat_format = ChatFormat(
            template=template.decode(errors="replace") if template else None,
            bos_text=self.vocabulary.bos_text,
            eos_text=self.vocabulary.eos_text,
        )
        self._vocabulary_tokens = len(self.vocabulary.pieces)
        self._batch = _Batch(self.batch_tokens)
        self._logits: NDArray[np.float32] = np.empty((0, self._vocabulary_tokens), np.float32)
        self._logits_views: dict[tuple[int, int], NDArray[np.float32]] = {}

    def decode(self, chunks: Sequence[Chunk]) -> None:
        rows = self._batch.fill(chunks, self._cache.place([chunk.sequence for chunk in chunks]))
        code = llama_cpp.llama_decode(self._context, self._batch.struct)
        if code != 0:
            for chunk in chunks:  # whole micro-batches of an aborted step stay in memory
                self.remove(chunk.sequence, chunk.position)
            raise _decode_failure(code)
        if rows:
            self._logits = self._logits_view(rows)

    def logprobs(self, row: int, token: int, top: int) -> TokenLogprob:
        logits = self._row(row).astype(np.float64)
        logits -= logits.max()
        logits -= np.log(np.exp(logits).sum())
        best = np.argpartition(logits, -top)[-top:] if top else np.empty(0, np.intp)
        ranked = best[np.argsort(-logits[best], kind="stable")]
        pieces = self.vocabulary.pieces
        return TokenLogprob(
            pieces[token],
            float(logits[token]),
            tuple(TokenLogprob(pieces[other], float(logits[other])) for other in ranked.tolist()),
        )

    def sampler(self, sampling: Sampling, prompt: Sequence[int]) -> Sampler:
        if sampling.is_greedy and not sampling.has_penalties and not sampling.logit_bias:
            return GreedySampler(self._row)
        if TopKSampler.serves(sampling, self._vocabulary_tokens):
            return TopKSampler(self._row, sampling, self._vocabulary_tokens)
        return ChainSampler(
            self._context, sampling, prompt, self._vocabulary_tokens, self._batch.index_of_row
        )

    def abort(self) -> None:
        log.set_quiet(True)  # llama.cpp reports an abort as an error
        self._abort.set()

    def rearm(self) -> None:
        self._abort.clear()
        log.set_quiet(False)

    def reset(self) -> None:
        llama_cpp.llama_free(self._context)
        self._logits_views.clear()
        try:
            self._open_context()
        except StartupError as error:
            raise EngineFailed(str(error)) from error

    def copy(self, source: int, target: int, length: int) -> None:
        self._cache.copy(source, target, length)

    def remove(self, sequence: int, start: int) -> None:
        self._cache.remove(sequence, start)

    def save(self, sequence: int) -> SavedSequence:
        return self._cache.save(sequence)

    def load(self, saved: SavedSequence, target: int) -> None:
        self._cache.load(saved, target)

    def length(self, sequence: int) -> int:
        return self._cache.length(sequence)

    def close(self) -> None:
        """Free the context and the model; nothing of this object works afterwards."""
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def _row(self, row: int) -> NDArray[np.float32]:
        view: NDArray[np.float32] = self._logits[self._batch.output_of_row(row)]
        return view

    def _open_context(self) -> None:
        options = self._options
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = self.ctx_tokens
        params.n_batch = self.batch_tokens
        params.n_ubatch = BATCH_TOKENS
        params.n_seq_max = options.slots if self._is_split else self.sequences
        # Else llama.cpp sets aside the logits of a whole batch: 100 MB here.
        params.n_outputs_max = max(self.sequences, options.slots + ROWS)
        params.swa_full = False
        params.n_threads = params.n_threads_batch = options.threads or os.cpu_count() or 1
        params.flash_attn_type = _FLASH_ATTN[options.flash_attn]
        params.type_k = _KV_TYPES[options.kv_type_k]
        params.type_v = _KV_TYPES[options.kv_type_v]
        params.kv_unified = not self._is_split
        params.no_perf = True
        context: llama_cpp.llama_context_p | None = llama_cpp.llama_init_from_model(self._model, params)
        if context is None:
            raise StartupError(f"llama.cpp cannot make a context of {self.ctx_tokens} tokens: {log.reason()}")
        memory = llama_cpp.llama_get_memory(context)
        if memory is None:
            raise StartupError("the model keeps no memory of a text, so it cannot generate one")
        self._context = context
        self._cache: KvCache = (
            SplitCache(context, memory, options.slots) if self._is_split else UnifiedCache(context, memory)
        )
        self._abort.install(context)

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


class _Batch:
    """A llama_batch over numpy arrays of `capacity` tokens, one sequence id per token."""

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._sequences = np.zeros(capacity, np.int32)
        self._sequence_counts = np.ones(capacity, np.int32)
        self._logits = np.zeros(capacity, np.int8)
        addresses = self._sequences.ctypes.data + 4 * np.arange(capacity, dtype=np.uintp)
        self._sequence_pointers = addresses.astype(np.uintp)
        self._counting = np.arange(capacity, dtype=np.int32)
        self._rows: list[int] = []
        self._outputs: list[int] = []
        self.struct = llama_cpp.llama_batch(
            token=_pointer(self._tokens, llama_cpp.llama_token),
            pos=_pointer(self._positions, llama_cpp.llama_pos),
            n_seq_id=_pointer(self._sequence_counts, ctypes.c_int32),
            seq_id=_pointer(self._sequence_pointers, ctypes.POINTER(llama_cpp.llama_seq_id)),
            logits=_pointer(self._logits, ctypes.c_int8),
        )

    def fill(self, chunks: Sequence[Chunk], ids: Sequence[int]) -> int:
        """Lay the chunks out by the ids of their sequences; returns how many rows of logits they ask for."""
        rows: list[list[int]] = [[] for _ in chunks]
        end = 0
        for index in sorted(range(len(chunks)), key=ids.__getitem__):
            chunk = chunks[index]
            start, end = end, end + len(chunk.tokens)
            self._tokens[start:end] = chunk.tokens
            self._positions[start:end] = self._counting[: end - start] + chunk.position
            self._sequences[start:end] = ids[index]
            self._logits[start:end] = 0
            if chunk.rows:
                self._logits[end - chunk.rows : end] = 1
                rows[index] = list(range(end - chunk.rows, end))
        self.struct.n_tokens = end
        self._rows = [at for own in rows for at in own]
        ranks = {at: rank for rank, at in enumerate(sorted(self._rows))}
        self._outputs = [ranks[at] for at in self._rows]
        return len(self._rows)

    def index_of_row(self, row: int) -> int:
        """Where in the batch the token is whose logits are row `row`, in the order of the chunks."""
        return self._rows[row]

    def output_of_row(self, row: int) -> int:
        """Which of llama.cpp's rows of logits, in the order of the batch, is row `row`."""
        return self._outputs[row]


def _pointer(array: NDArray[Any], element: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(element))


def _load_model(path: Path, options: LlamaOptions) -> llama_cpp.llama_model_p:
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = options.gpu_layers
    with log.quietly():
        model: llama_cpp.llama_model_p | None = llama_cpp.llama_model_load_from_file(
            os.fsencode(path), params
        )
    if model is None:
        raise load_failure(path)
    return model


def _can_cut(model: llama_cpp.llama_model_p) -> bool:
    """Not where the model keeps one state for all positions, or only the last ones of some layers."""
    return not (
        llama_cpp.llama_model_is_recurrent(model)
        or llama_cpp.llama_model_is_hybrid(model)
        or llama_cpp.llama_model_n_swa(model) > 0
    )


def _decode_failure(code: int) -> Exception:
    """What llama_decode's return code means (llama.h)."""
    match code:
        case 1:
            return EngineFailed("the KV cache has no room for this step")
        case 2:
            return StepAborted()
        case -1:
            return EngineFailed("llama.cpp refused the batch")
        case _:
            return BackendLost(f"llama.cpp failed in a step (code {code})")
