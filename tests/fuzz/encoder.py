"""A model that only reads, as a GGUF file: BERT with random weights and a vocabulary of a few words."""

import math
import random
import struct

from tests.fuzz.gguf import (
    BOOL,
    F32,
    FLOAT32,
    INT32,
    STRING,
    UINT32,
    Array,
    Gguf,
    Scalar,
    Tensor,
    number,
    string,
    text,
)

EMBEDDING, HIDDEN, HEADS, LAYERS, CTX_TOKENS = 32, 64, 2, 2, 64
CLS = 2
CONTROLS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("the", "a", "cat", "dog", "sat", "ran", "on", "mat", "is", "red")


def small_encoder(*, pooling: int | None = CLS) -> Gguf:
    """A BERT of 64 tokens of context, which says how it pools, by llama.cpp's number, if that is given."""
    letters = [chr(97 + index) for index in range(26)]
    # A word begins with this mark in a GGUF file; without it, a piece goes on with one.
    tokens = [*CONTROLS, *dict.fromkeys(f"▁{word}" for word in (*WORDS, *letters)), *letters]
    kinds = [3 if token in CONTROLS else 1 for token in tokens]
    metadata: list[Scalar | Array] = [
        string("general.architecture", "bert"),
        string("general.name", "Small encoder"),
        number("bert.block_count", UINT32, LAYERS),
        number("bert.context_length", UINT32, CTX_TOKENS),
        number("bert.embedding_length", UINT32, EMBEDDING),
        number("bert.feed_forward_length", UINT32, HIDDEN),
        number("bert.attention.head_count", UINT32, HEADS),
        number("bert.attention.layer_norm_epsilon", FLOAT32, 1e-5),
        number("bert.attention.causal", BOOL, False),
        number("general.file_type", UINT32, 0),
        string("tokenizer.ggml.model", "bert"),
        number("tokenizer.ggml.token_type_count", UINT32, 2),
        Array(b"tokenizer.ggml.tokens", STRING, [text(token.encode()) for token in tokens]),
        Array(b"tokenizer.ggml.scores", FLOAT32, [struct.pack("<f", 0)] * len(tokens)),
        Array(b"tokenizer.ggml.token_type", INT32, [struct.pack("<i", kind) for kind in kinds]),
        *(
            number(f"tokenizer.ggml.{name}_token_id", UINT32, CONTROLS.index(f"[{control}]"))
            for name, control in (
                *(("unknown", "UNK"), ("seperator", "SEP"), ("padding", "PAD")),
                *(("cls", "CLS"), ("mask", "MASK"), ("bos", "CLS"), ("eos", "SEP")),
            )
        ),
    ]
    if pooling is not None:
        metadata.append(number("bert.pooling_type", UINT32, pooling))
    weights = random.Random(0)

    def tensor(name: str, *sizes: int) -> Tensor:
        values = (weights.uniform(-0.5, 0.5) for _ in range(math.prod(sizes)))
        return Tensor(name.encode(), list(sizes), struct.pack(f"<{math.prod(sizes)}f", *values), F32)

    tensors = [
        tensor("token_embd.weight", EMBEDDING, len(tokens)),
        tensor("position_embd.weight", EMBEDDING, CTX_TOKENS),
        tensor("token_types.weight", EMBEDDING, 2),
        tensor("token_embd_norm.weight", EMBEDDING),
        tensor("token_embd_norm.bias", EMBEDDING),
    ]
    for layer in range(LAYERS):
        for name, *sizes in (
            ("attn_q", EMBEDDING, EMBEDDING),
            ("attn_k", EMBEDDING, EMBEDDING),
            ("attn_v", EMBEDDING, EMBEDDING),
            ("attn_output", EMBEDDING, EMBEDDING),
            ("attn_output_norm", EMBEDDING),
            ("ffn_up", EMBEDDING, HIDDEN),
            ("ffn_down", HIDDEN, EMBEDDING),
            ("layer_output_norm", EMBEDDING),
        ):
            tensors += [
                tensor(f"blk.{layer}.{name}.weight", *sizes),
                tensor(f"blk.{layer}.{name}.bias", sizes[-1]),
            ]
    return Gguf(metadata, tensors)
