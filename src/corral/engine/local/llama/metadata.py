"""What a model's file says about itself, by the keys of the GGUF format; its weights are not needed."""

from __future__ import annotations  # the bindings define their pointer types for type checkers only

import ctypes

import llama_cpp

from corral.engine.local.llama.options import KV_TYPES


def text(model: llama_cpp.llama_model_p, key: str) -> str | None:
    """The value of a key as text; None where the file has none, or a list."""
    buffer = ctypes.create_string_buffer(256)
    length = llama_cpp.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode(errors="replace") if length >= 0 else None


def number(model: llama_cpp.llama_model_p, key: str) -> int | None:
    """The value of a key of the model's own architecture; None where there is no such number."""
    value = text(model, f"{text(model, 'general.architecture')}.{key}")
    return int(value) if value is not None and value.isdecimal() else None


def head_bytes(model: llama_cpp.llama_model_p, type_k: str, type_v: str) -> float | None:
    """Bytes of a token's key and value in one attention head; None where the file has no such numbers."""
    heads, width = number(model, "attention.head_count"), number(model, "embedding_length")
    by_width = width // heads if heads and width else None
    key = number(model, "attention.key_length") or by_width
    value = number(model, "attention.value_length") or by_width
    if key is None or value is None:
        return None
    return KV_TYPES[type_k].element_bytes * key + KV_TYPES[type_v].element_bytes * value


def kv_token_bytes(model: llama_cpp.llama_model_p, type_k: str, type_v: str) -> int | None:
    """Bytes of a token in the KV cache if every layer keeps every token: sliding windows need less.

    None where the file does not say it in numbers, as of models whose layers differ.
    """
    layers, per_head = number(model, "block_count"), head_bytes(model, type_k, type_v)
    heads = number(model, "attention.head_count_kv")
    return None if layers is None or heads is None or per_head is None else int(layers * heads * per_head)
