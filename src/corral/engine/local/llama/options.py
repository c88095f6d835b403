"""What llama.cpp can be told: the types of a KV cache, and the options of a model and its context."""

from __future__ import annotations  # the bindings define their pointer types for type checkers only

from dataclasses import dataclass

import llama_cpp

from corral.engine.local.options import EngineOptions


@dataclass(frozen=True, slots=True)
class KvType:
    """A type of elements in the KV cache: ggml's number of it, and the bytes of a block by its elements."""

    ggml: int
    element_bytes: float


KV_TYPES = {
    "f32": KvType(llama_cpp.GGML_TYPE_F32, 4.0),
    "f16": KvType(llama_cpp.GGML_TYPE_F16, 2.0),
    "bf16": KvType(30, 2.0),  # GGML_TYPE_BF16 is missing from the bindings
    "q8_0": KvType(llama_cpp.GGML_TYPE_Q8_0, 34 / 32),
    "q5_1": KvType(llama_cpp.GGML_TYPE_Q5_1, 24 / 32),
    "q5_0": KvType(llama_cpp.GGML_TYPE_Q5_0, 22 / 32),
    "q4_1": KvType(llama_cpp.GGML_TYPE_Q4_1, 20 / 32),
    "q4_0": KvType(llama_cpp.GGML_TYPE_Q4_0, 18 / 32),
}

FLASH_ATTN = {
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}


@dataclass(frozen=True, slots=True)
class LlamaOptions:
    """What llama.cpp is told; the fields are those of Settings, and 0 or -1 mean what they mean there.

    How many sequences run, and whether in equal steps, is the `engine`'s.
    """

    engine: EngineOptions
    ctx_tokens: int = 0
    threads: int = 0
    gpu_layers: int = 0
    flash_attn: str = "auto"
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    kv_cache: str = "auto"
    pooling: str = "auto"

    @property
    def slots(self) -> int:
        return self.engine.slots

    @property
    def deterministic(self) -> bool:
        return self.engine.deterministic
