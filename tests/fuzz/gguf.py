"""A GGUF file as data, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

Everything that is written is a field here, so that everything can be wrong.
"""

import math
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
FORMATS = {UINT8: "B", INT8: "b", UINT16: "H", INT16: "h", UINT32: "I", INT32: "i", FLOAT32: "f", BOOL: "?"}
FORMATS |= {UINT64: "Q", INT64: "q", FLOAT64: "d"}
F32, F16 = 0, 1


def text(value: bytes, length: int | None = None) -> bytes:
    """A string as it is written: its length, which may be said to be another, and its bytes."""
    return struct.pack("<Q", len(value) if length is None else length) + value


@dataclass
class Scalar:
    key: bytes
    type: int
    raw: bytes

    def written(self) -> bytes:
        return text(self.key) + struct.pack("<I", self.type) + self.raw


@dataclass
class Array:
    key: bytes
    type: int
    items: list[bytes]
    count: int | None = None

    def written(self) -> bytes:
        count = len(self.items) if self.count is None else self.count
        return text(self.key) + struct.pack("<IIQ", ARRAY, self.type, count) + b"".join(self.items)


@dataclass
class Tensor:
    name: bytes
    dimensions: list[int]
    data: bytes
    type: int = F32
    offset: int | None = None
    dimension_count: int | None = None

    def written(self, offset: int) -> bytes:
        count = len(self.dimensions) if self.dimension_count is None else self.dimension_count
        offset = offset if self.offset is None else self.offset
        sizes = struct.pack(f"<{len(self.dimensions)}Q", *(size % 2**64 for size in self.dimensions))
        return text(self.name) + struct.pack("<I", count) + sizes + struct.pack("<IQ", self.type, offset)


@dataclass
class Gguf:
    metadata: list[Scalar | Array]
    tensors: list[Tensor]
    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    metadata_count: int | None = None
    edits: list[Callable[[bytearray], None]] = field(default_factory=list)
    """What is done to the finished bytes."""

    def written(self) -> bytes:
        tensors = len(self.tensors) if self.tensor_count is None else self.tensor_count
        entries = len(self.metadata) if self.metadata_count is None else self.metadata_count
        head = self.magic + struct.pack("<IQQ", self.version, tensors, entries)
        head += b"".join(entry.written() for entry in self.metadata)
        data = b""
        for tensor in self.tensors:
            head += tensor.written(len(data))
            data += _padded(tensor.data)
        raw = bytearray(_padded(head) + data)
        for edit in self.edits:
            edit(raw)
        return bytes(raw)

    def __getitem__(self, key: str) -> Scalar | Array:
        for entry in self.metadata:
            if entry.key == key.encode():
                return entry
        raise KeyError(key)

    def scalar(self, key: str) -> Scalar:
        entry = self[key]
        assert isinstance(entry, Scalar)
        return entry

    def array(self, key: str) -> Array:
        entry = self[key]
        assert isinstance(entry, Array)
        return entry


def number(key: str, kind: int, value: float) -> Scalar:
    return Scalar(key.encode(), kind, struct.pack("<" + FORMATS[kind], value))


def string(key: str, value: str) -> Scalar:
    return Scalar(key.encode(), STRING, text(value.encode()))


def _padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % 32)


# The model

TOKENS, EMBEDDING, HIDDEN, HEAD, HEADS_KV = 300, 64, 128, 16, 2
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("Ġ t", "Ġ a", "i n", "h e", "r e", "o n", "e r", "Ġt he", "a t", "Ġ s", "Ġ o", "e n", "Ġ c", "e s")
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def small_model() -> Gguf:
    """A model that loads and computes: random weights, GPT-2's 256 bytes as tokens and a few merges."""
    tokens = [*CONTROLS, *_byte_characters(), *(merge.replace(" ", "") for merge in MERGES)]
    tokens += [f"<|reserved_{index}|>" for index in range(TOKENS - len(tokens))]
    kinds = [3 if token.startswith("<|") else 1 for token in tokens]
    metadata: list[Scalar | Array] = [
        string("general.architecture", "llama"),
        string("general.name", "Small"),
        number("llama.block_count", UINT32, 2),
        number("llama.context_length", UINT32, 256),
        number("llama.embedding_length", UINT32, EMBEDDING),
        number("llama.feed_forward_length", UINT32, HIDDEN),
        number("llama.attention.head_count", UINT32, EMBEDDING // HEAD),
        number("llama.attention.head_count_kv", UINT32, HEADS_KV),
        number("llama.rope.freq_base", FLOAT32, 10_000),
        number("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        number("llama.vocab_size", UINT32, len(tokens)),
        number("llama.rope.dimension_count", UINT32, HEAD),
        number("general.file_type", UINT32, 0),
        string("tokenizer.ggml.model", "gpt2"),
        string("tokenizer.ggml.pre", "smollm"),
        Array(b"tokenizer.ggml.tokens", STRING, [text(token.encode()) for token in tokens]),
        Array(b"tokenizer.ggml.scores", FLOAT32, [struct.pack("<f", 0)] * len(tokens)),
        Array(b"tokenizer.ggml.token_type", INT32, [struct.pack("<i", kind) for kind in kinds]),
        Array(b"tokenizer.ggml.merges", STRING, [text(merge.encode()) for merge in MERGES]),
        number("tokenizer.ggml.bos_token_id", UINT32, 1),
        number("tokenizer.ggml.eos_token_id", UINT32, 2),
        number("tokenizer.ggml.unknown_token_id", UINT32, 0),
        number("tokenizer.ggml.padding_token_id", UINT32, 2),
        number("tokenizer.ggml.add_bos_token", BOOL, False),
        string("tokenizer.chat_template", TEMPLATE),
    ]
    tensors = [
        _tensor("token_embd", EMBEDDING, len(tokens)),
        _tensor("output_norm", EMBEDDING),
    ]
    for layer in range(2):
        for name, *sizes in (
            ("attn_norm", EMBEDDING),
            ("attn_q", EMBEDDING, EMBEDDING),
            ("attn_k", EMBEDDING, HEAD * HEADS_KV),
            ("attn_v", EMBEDDING, HEAD * HEADS_KV),
            ("attn_output", EMBEDDING, EMBEDDING),
            ("ffn_norm", EMBEDDING),
            ("ffn_gate", EMBEDDING, HIDDEN),
            ("ffn_up", EMBEDDING, HIDDEN),
            ("ffn_down", HIDDEN, EMBEDDING),
        ):
            tensors.append(_tensor(f"blk.{layer}.{name}", *sizes))
    return Gguf(metadata, tensors)


def _tensor(name: str, *sizes: int) -> Tensor:
    count, is_row = math.prod(sizes), len(sizes) == 1
    data = _weights("f" if is_row else "e")[: count * (4 if is_row else 2)]
    return Tensor(f"{name}.weight".encode(), list(sizes), data, F32 if is_row else F16)


@cache
def _weights(form: str) -> bytes:
    """Small random numbers, as many as the largest tensor has."""
    random_ = random.Random(0)
    return struct.pack(
        f"<{TOKENS * EMBEDDING}{form}", *(random_.uniform(-0.1, 0.1) for _ in range(TOKENS * EMBEDDING))
    )


def _byte_characters() -> list[str]:
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(0x100 + index) for index in range(len(others))]
