"""Whether a context fits in memory, asked before llama.cpp allocates it.

Linux hands out memory it does not have and kills whoever touches it, so a context that is too large
would end as a killed process, later, instead of a message now.
"""

from __future__ import annotations  # the bindings define their pointer types for type checkers only

from pathlib import Path

import llama_cpp

from corral.engine.local.llama import metadata
from corral.engine.local.llama.options import LlamaOptions
from corral.errors import StartupError

SPLIT_SHARE = 0.25  # of the available memory, for a KV cache per slot that nobody asked for


def kv_cache_bytes(model: llama_cpp.llama_model_p, ctx_tokens: int, type_k: str, type_v: str) -> int:
    """Bytes of a KV cache of `ctx_tokens` cells. An upper estimate: sliding windows need less."""
    heads = llama_cpp.llama_model_n_head_kv(model) * llama_cpp.llama_model_n_layer(model)
    per_head = metadata.head_bytes(model, type_k, type_v)  # None in a model without attention, as Mamba
    return 0 if per_head is None else int(heads * per_head * ctx_tokens)


def available_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not say (only Linux does)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def check_device(options: LlamaOptions) -> None:
    """Raise StartupError if layers are to go to a GPU of which this build of llama.cpp knows nothing.

    It would leave them on the CPU without a word, and what is decided by `gpu_layers` here would be wrong.
    """
    if options.gpu_layers != 0 and not llama_cpp.llama_supports_gpu_offload():
        raise StartupError(
            "--gpu-layers asks for a GPU, and this llama.cpp was built for none, or finds none: "
            "leave it out, or build llama.cpp for a GPU (docs/install.md)"
        )


def is_split(model: llama_cpp.llama_model_p, ctx_tokens: int, options: LlamaOptions) -> bool:
    """Whether each slot gets a KV cache of `ctx_tokens` of its own.

    Where answers have to be deterministic it does: in a shared one it depends on others where tokens lie. If
    it is not said, each does where all of them take at most SPLIT_SHARE of the memory there is, and are no
    less than the context that was asked for. Not on a GPU, whose memory is scarce, and not for models that
    keep a state instead of cells.
    """
    if options.deterministic:
        return True
    if options.kv_cache != "auto":
        return options.kv_cache == "per-slot"
    available = available_bytes()
    if available is None or options.gpu_layers != 0 or options.slots == 1:
        return False
    if options.slots * ctx_tokens < options.ctx_tokens:
        return False
    if llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model):
        return False
    free = available - llama_cpp.llama_model_size(model)  # mapped files count as available, and are needed
    needed = kv_cache_bytes(model, options.slots * ctx_tokens, options.kv_type_k, options.kv_type_v)
    return bool(needed <= SPLIT_SHARE * free)


def check_fits(
    model: llama_cpp.llama_model_p, ctx_tokens: int, options: LlamaOptions, beside_bytes: int = 0
) -> None:
    """Raise StartupError if the KV cache and what is needed beside it are larger than the memory there is."""
    available = available_bytes()
    if available is None or options.gpu_layers != 0:
        return
    needed = beside_bytes + kv_cache_bytes(model, ctx_tokens, options.kv_type_k, options.kv_type_v)
    if needed > available:
        shared = "--kv-cache shared, " if options.kv_cache == "per-slot" else ""
        raise StartupError(
            f"a context of {ctx_tokens:,} tokens needs {needed / 2**30:.1f} GiB for its KV cache and "
            f"{available / 2**30:.1f} GiB are available: lower --ctx, or use {shared}a smaller KV cache type"
        )
