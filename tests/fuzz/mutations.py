"""What can be wrong with a model file: each mutation is a function that changes one place of it."""

import math
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy

from tests.fuzz.gguf import (
    BOOL,
    FLOAT32,
    FORMATS,
    INT32,
    STRING,
    TEMPLATE,
    UINT32,
    Array,
    Gguf,
    Scalar,
    small_model,
    text,
)

EDGES = [
    0,
    1,
    2,
    3,
    7,
    255,
    256,
    65_535,
    *(2**bits + off for bits in (31, 32, 63) for off in (-1, 0)),
    2**64 - 1,
]
TEXTS = [b"", b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\x1b[2J\x1b]0;x\x07", b"a" * 70_000, b"\xe2\x80\xae"]
WORDS = (
    b"llama gpt2 bert t5 rwkv none no_vocab plamo2 mamba gemma3 clip default gpt-4o tekken yarn longrope "
    b"qwen2moe deepseek2 falcon bloom"
).split()
KEYS = (
    b"llama.expert_count llama.expert_used_count llama.attention.key_length llama.attention.value_length "
    b"llama.attention.sliding_window llama.attention.causal llama.rope.scaling.factor "
    b"llama.rope.scaling.type llama.nextn_predict_layers llama.pooling_type general.alignment "
    b"split.count split.no tokenizer.ggml.eot_token_id tokenizer.ggml.precompiled_charsmap"
).split()
TEMPLATES = [
    *(
        "{% for x in %}",
        "{{ x | nosuchfilter }}",
        "{% if %}",
        "{{ 10**10000 }}",
        "{% nosuchtag %}",
        "{#",
        "\0",
        " ",
    ),
    *(
        "{{ " + "(" * 300 + "1" + ")" * 300 + " }}",
        "{{ '\x1b[31m' }}",
        "{% include 'x' %}",
        "{{ 10**(10**9) }}",
    ),
]

Mutation = Callable[[random.Random, Gguf], None]


def _value(random_: random.Random, kind: int) -> bytes:
    """A value of a type, likelier an edge than not; of a type that is none, any bytes."""
    if kind == STRING:
        return text(random_.choice([*TEXTS, *WORDS]))
    form = FORMATS.get(kind)
    if form is None:
        return random_.randbytes(8)
    size = struct.calcsize(form)
    if form in "fd":
        edges = [0.0, -0.0, -1.0, 1e30, 1e-30, math.nan, math.inf, -math.inf, random_.uniform(-10, 10)]
        return struct.pack("<" + form, random_.choice(edges))
    whole = random_.choice(EDGES) if random_.random() < 0.7 else random_.randrange(2 ** (8 * size))
    return int(whole % 2 ** (8 * size)).to_bytes(size, "little")


def truncation(random_: random.Random, gguf: Gguf) -> None:
    share = random_.random() ** 3  # more of them in the header
    gguf.edits.append(lambda raw: raw.__delitem__(slice(int(len(raw) * share), None)))


def bit_flips(random_: random.Random, gguf: Gguf) -> None:
    places = [(random_.random() ** 2, random_.randrange(8)) for _ in range(random_.choice([1, 1, 4, 32]))]

    def flip(raw: bytearray) -> None:
        for share, bit in places:
            if raw:
                raw[int(len(raw) * share)] ^= 1 << bit

    gguf.edits.append(flip)


def counts(random_: random.Random, gguf: Gguf) -> None:
    name = random_.choice(["version", "tensor_count", "metadata_count"])
    near = len(gguf.tensors) if name == "tensor_count" else len(gguf.metadata)
    value = random_.choice([*EDGES, near - 1, near + 1])
    setattr(gguf, name, value % 2 ** (32 if name == "version" else 64))


def scalar_values(random_: random.Random, gguf: Gguf) -> None:
    entry = random_.choice([entry for entry in gguf.metadata if isinstance(entry, Scalar)])
    entry.raw = _value(random_, entry.type)


def scalar_types(random_: random.Random, gguf: Gguf) -> None:
    entry = random_.choice([entry for entry in gguf.metadata if isinstance(entry, Scalar)])
    entry.type = random_.choice([*range(14), 2**31, 2**32 - 1])
    if random_.random() < 0.7:
        entry.raw = _value(random_, entry.type)


def keys(random_: random.Random, gguf: Gguf) -> None:
    entry = random_.choice(gguf.metadata)
    match random_.randrange(4):
        case 0:
            gguf.metadata.remove(entry)
        case 1:
            gguf.metadata.insert(random_.randrange(len(gguf.metadata)), deepcopy(entry))
        case 2:
            entry.key = random_.choice([*TEXTS, *KEYS, entry.key[:-1]])
        case 3:
            kind = random_.choice([UINT32, UINT32, FLOAT32, STRING, BOOL, INT32])
            gguf.metadata.append(Scalar(random_.choice(KEYS), kind, _value(random_, kind)))


def string_lengths(random_: random.Random, gguf: Gguf) -> None:
    entry = random_.choice(
        [entry for entry in gguf.metadata if isinstance(entry, Scalar) and entry.type == STRING]
    )
    entry.raw = text(entry.raw[8:], random_.choice([*EDGES, len(entry.raw) - 9, len(entry.raw) - 7]))


def arrays(random_: random.Random, gguf: Gguf) -> None:
    array = random_.choice([entry for entry in gguf.metadata if isinstance(entry, Array)])
    match random_.randrange(6):
        case 0:
            array.count = random_.choice([*EDGES, len(array.items) - 1, len(array.items) + 1])
        case 1:
            array.type = random_.choice([*range(14), 2**32 - 1])
        case 2:
            del array.items[random_.randrange(len(array.items) + 1) :]
        case 3:
            array.items += [_value(random_, array.type) for _ in range(random_.choice([1, 50, 5_000]))]
        case 4:
            array.items[random_.randrange(len(array.items))] = _value(random_, array.type)
        case 5:
            random_.shuffle(array.items)


def token_texts(random_: random.Random, gguf: Gguf) -> None:
    tokens = gguf.array("tokenizer.ggml.tokens").items
    for _ in range(random_.choice([1, 1, 10, 200])):
        at = random_.randrange(len(tokens))
        same, other = tokens[at][8:], random_.choice(tokens)[8:]
        new = [
            other,
            *TEXTS,
            random_.randbytes(random_.randrange(1, 9)),
            same + b"\xff",
            b"<0x41>",
            b"<|im_end|>",
        ]
        tokens[at] = text(random_.choice(new))


def token_kinds(random_: random.Random, gguf: Gguf) -> None:
    types = gguf.array("tokenizer.ggml.token_type").items
    kinds = [0, 1, 2, 3, 4, 5, 6, 7, -1, 2**31 - 1]
    for _ in range(random_.choice([1, 10, 300])):
        types[random_.randrange(len(types))] = struct.pack("<i", random_.choice(kinds))


def merges(random_: random.Random, gguf: Gguf) -> None:
    items = gguf.array("tokenizer.ggml.merges").items
    new = [
        b"",
        b" ",
        b"  ",
        b"nospace",
        b"a b c",
        b"\xff \xff",
        b"\xc4 t",
        b"z" * 5_000 + b" z",
        random_.randbytes(6),
    ]
    for _ in range(random_.choice([1, 5])):
        items[random_.randrange(len(items))] = text(random_.choice(new))


def tokenizer_kinds(random_: random.Random, gguf: Gguf) -> None:
    gguf.scalar("tokenizer.ggml.model").raw = text(random_.choice([*WORDS, *TEXTS]))
    if random_.random() < 0.5:
        gguf.scalar("tokenizer.ggml.pre").raw = text(random_.choice([*WORDS, *TEXTS]))


def architectures(random_: random.Random, gguf: Gguf) -> None:
    name = random_.choice(WORDS)
    gguf.scalar("general.architecture").raw = text(name)
    if random_.random() < 0.7:
        for entry in gguf.metadata:
            entry.key = entry.key.replace(b"llama.", name + b".")


def templates(random_: random.Random, gguf: Gguf) -> None:
    template = TEMPLATE.encode()
    match random_.randrange(4):
        case 0:
            template = random_.choice(TEMPLATES).encode()
        case 1:
            template = template[: random_.randrange(len(template))]
        case 2:
            cut = random_.randrange(len(template))
            template = template[:cut] + random_.choice([*TEXTS, b"{%", b"%}", b"{{"]) + template[cut:]
        case 3:
            raw = bytearray(template)
            for _ in range(random_.choice([1, 3, 20])):
                raw[random_.randrange(len(raw))] = random_.randrange(256)
            template = bytes(raw)
    gguf.scalar("tokenizer.chat_template").raw = text(template)


def tensor_records(random_: random.Random, gguf: Gguf) -> None:
    tensor = random_.choice(gguf.tensors)
    match random_.randrange(8):
        case 0:
            tensor.name = random_.choice([*TEXTS, random_.choice(gguf.tensors).name, tensor.name[:-1]])
        case 1:
            tensor.dimension_count = random_.choice([0, 1, 2, 3, 4, 5, 2**31, 2**32 - 1])
        case 2:
            tensor.dimensions[random_.randrange(len(tensor.dimensions))] = random_.choice(
                [*EDGES, 63, 65, 128]
            )
        case 3:
            tensor.type = random_.choice([*range(45), 2**31, 2**32 - 1])
        case 4:
            tensor.offset = random_.choice([*EDGES, 31, 32, 64, 10**6])
        case 5:
            gguf.tensors.remove(tensor)
        case 6:
            gguf.tensors.append(deepcopy(tensor))
        case 7:
            tensor.dimensions = [1, *tensor.dimensions] if random_.random() < 0.5 else tensor.dimensions[::-1]


def weights(random_: random.Random, gguf: Gguf) -> None:
    tensor = random_.choice(gguf.tensors)
    pattern = random_.choice([b"\xff\xff", b"\x00\x7c", b"\x00\x00", random_.randbytes(2)])
    tensor.data = pattern * (len(tensor.data) // 2)


MUTATIONS: tuple[Mutation, ...] = (
    truncation,
    bit_flips,
    counts,
    scalar_values,
    scalar_values,  # more of them: of all there is, llama.cpp asserts most on these
    scalar_types,
    keys,
    string_lengths,
    arrays,
    token_texts,
    token_kinds,
    merges,
    tokenizer_kinds,
    architectures,
    templates,
    tensor_records,
    weights,
)


def mutant(seed: int) -> tuple[str, bytes]:
    """The file of a seed, and the names of what is wrong with it."""
    random_ = random.Random(seed)
    gguf = small_model()
    chosen = random_.choices(MUTATIONS, k=random_.choice([1, 1, 1, 2, 3]))
    for mutation in chosen:
        with suppress(KeyError, ValueError):  # what it would change was taken away by one before
            mutation(random_, gguf)
    return "+".join(mutation.__name__ for mutation in chosen), gguf.written()
