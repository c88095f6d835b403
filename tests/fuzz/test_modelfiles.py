"""Faults of model files, named ones and a few of the fuzzer's: each ends well, or in one line."""

import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
from tests.fuzz.gguf import BOOL, FLOAT32, UINT32, Gguf, Scalar, number, small_model, text
from tests.fuzz.modelfiles import Outcome, run_all
from tests.fuzz.mutations import mutant

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(sys.platform != "linux", reason="the fuzzer waits for processes as Linux does"),
]

Change = Callable[[Gguf], object]
SEEDS = range(16)


def setting(key: str, kind: int, value: float) -> Change:
    """A scalar of the file has this value; one that is not there yet is added."""

    def change(gguf: Gguf) -> None:
        gguf.metadata = [entry for entry in gguf.metadata if entry.key != key.encode()]
        gguf.metadata.append(number(key, kind, value))

    return change


def tokens(*changes: tuple[int, bytes]) -> Change:
    def change(gguf: Gguf) -> None:
        for index, value in changes:
            gguf.array("tokenizer.ggml.tokens").items[index] = text(value)

    return change


def template(value: bytes) -> Change:
    def change(gguf: Gguf) -> None:
        gguf.scalar("tokenizer.chat_template").raw = text(value)

    return change


def named(key: str, value: bytes) -> Change:
    def change(gguf: Gguf) -> None:
        gguf.scalar(key).raw = text(value)

    return change


def retyped(key: str, kind: int, raw: bytes) -> Change:
    def change(gguf: Gguf) -> None:
        index = next(index for index, entry in enumerate(gguf.metadata) if entry.key == key.encode())
        gguf.metadata[index] = Scalar(key.encode(), kind, raw)

    return change


def cut(key: str, count: int) -> Change:
    def change(gguf: Gguf) -> None:
        del gguf.array(key).items[count:]

    return change


def tensor(name: bytes, **changes: object) -> Change:
    def change(gguf: Gguf) -> None:
        found = next(tensor for tensor in gguf.tensors if tensor.name == name)
        for field, value in changes.items():
            setattr(found, field, value)

    return change


EPSILON = "llama.attention.layer_norm_rms_epsilon"

REFUSED: dict[str, tuple[Change, str]] = {
    "blanks in a row": (named("tokenizer.ggml.pre", b"whitespace"), "SIGABRT while tokenizing"),
    "no layers": (setting("llama.block_count", UINT32, 0), "SIGABRT while loading .*n_layer"),
    "2^31-1 layers": (setting("llama.block_count", UINT32, 2**31 - 1), "SIGABRT while loading .*n_layer"),
    "2^31 layers": (setting("llama.block_count", UINT32, 2**31), "SIGABRT while loading .*n_layer"),
    "2^32-1 layers": (setting("llama.block_count", UINT32, 2**32 - 1), "SIGABRT while loading .*n_layer"),
    "a layer too many": (setting("llama.block_count", UINT32, 3), "blk.2.*not found"),
    "epsilon is no number": (setting(EPSILON, FLOAT32, float("nan")), f"says that {EPSILON} is nan"),
    "epsilon is negative": (setting(EPSILON, FLOAT32, -1.0), f"says that {EPSILON} is -1"),
    "no context": (setting("llama.context_length", UINT32, 0), "context of 0 tokens"),
    "2^31 tokens of context": (
        setting("llama.context_length", UINT32, 2**31),
        "context of -2147483648 tokens",
    ),
    "no heads": (setting("llama.attention.head_count", UINT32, 0), "llama.cpp"),
    "no heads for keys": (setting("llama.attention.head_count_kv", UINT32, 0), "llama.cpp"),
    "more heads than dimensions": (setting("llama.attention.head_count", UINT32, 2**31), "llama.cpp"),
    "too many experts": (
        setting("llama.expert_count", UINT32, 2**32 - 1),
        "SIGABRT while loading .*n_expert",
    ),
    "a token twice": (tokens((20, b"!"), (21, b"!")), "SIGABRT while loading .*id_to_token"),
    "fewer types than tokens": (cut("tokenizer.ggml.token_type", 10), "toktypes"),
    "fewer scores than tokens": (cut("tokenizer.ggml.scores", 10), "scores"),
    "fewer tokens than rows": (cut("tokenizer.ggml.tokens", 280), "llama.cpp"),
    "no vocabulary": (named("tokenizer.ggml.model", b"no_vocab"), "."),
    "a tokenizer that never ends": (named("tokenizer.ggml.model", b"rwkv"), "tokenizing with .* too much"),
    "a text for a number": (retyped("llama.block_count", 8, text(b"\x1b[31m")), "llama.cpp cannot load"),
    "an alignment that is none": (setting("general.alignment", UINT32, 3), "alignment 3 is not a power of 2"),
    "a shape of 2^63": (tensor(b"output_norm.weight", dimensions=[2**63 - 1, 2**63 - 1]), "llama.cpp"),
    "data beyond the file": (tensor(b"output_norm.weight", offset=2**40), "llama.cpp cannot load|truncated"),
    "a kind of tensor there is not": (tensor(b"output_norm.weight", type=2**31), "invalid ggml type"),
    "another architecture, with ESC": (named("general.architecture", b"\x1b[31mred"), r"\\x1b\[31mred"),
    "a template that never ends": (
        template(b"{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
        "rendering the chat template of .* too much",
    ),
    "a template that computes for ever": (
        template(b"{{ range(99999) | map('string') | map('center', 99999) | join | list | sort }}"),
        "chat template of .* too much|perhaps for lack of memory|more memory",
    ),
    "a template that is not finished": (template(b"{% for x in y %}"), "template does not compile: line 1: "),
    "a filter there is not": (template(b"{{ x | nosuch }}"), "template does not compile: line 1: "),
    "too deep a template": (template(b"{{ " + b"(" * 9_000 + b")" * 9_000), "template does not compile|dies"),
}

REFUSED_WHEN_WRITTEN: dict[str, Change] = {
    "a number too long to print": template(b"{{ 10**10000 }}"),
    "a number that takes for ever": template(b"{{ 10**(10**9) }}"),
    "a text of gigabytes": template(b"{{ 'a' * 10**10 }}"),
}

ACCEPTED: dict[str, Change] = {
    "as it is": lambda gguf: None,
    "a token that is no UTF-8": tokens((290, b"\xff\xfe"), (1, b"<|im_start|>")),
    "a control token that is no UTF-8": tokens((2, b"<|\xc3|>")),
    "a template that is no UTF-8": template(b"{{ messages[0].content }} \xff"),
    "a template with ESC": template(b"\x1b[31m{{ messages[0].content }}"),
    "a bos there is not": setting("tokenizer.ggml.bos_token_id", UINT32, 2**31),
    "add_bos": setting("tokenizer.ggml.add_bos_token", BOOL, True),
}


def changed(*changes: Change) -> bytes:
    gguf = small_model()
    for change in changes:
        change(gguf)
    return gguf.written()


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[Outcome]]:
    """What became of every file below, by name: of `corral model`, then of loading it if that went well.

    In processes forked from one that never had a thread; this one may have had llama.cpp's.
    """
    code = "from tests.fuzz.test_modelfiles import report; report()"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    found: dict[str, list[Outcome]] = {}
    for case in pickle.loads(finished.stdout):
        found.setdefault(case.name, []).append(case.outcome)
    return found


def report() -> None:
    """Run all of the files below and write the cases to stdout."""
    changes = {**{name: change for name, (change, _) in REFUSED.items()}, **REFUSED_WHEN_WRITTEN, **ACCEPTED}
    files = [(name, partial(changed, change)) for name, change in changes.items()]
    files += [(f"seed {seed}", partial(mutant_bytes, seed)) for seed in SEEDS]
    sys.stdout.buffer.write(pickle.dumps(list(run_all(files, jobs=2, limit_s=120))))


def mutant_bytes(seed: int) -> bytes:
    return mutant(seed)[1]


@pytest.mark.parametrize("name", REFUSED)
def test_what_llama_cpp_or_the_template_would_die_of_is_told_in_one_line(
    name: str, outcomes: dict[str, list[Outcome]]
) -> None:
    for outcome in outcomes[name]:
        assert outcome.kind == "refused"
        assert re.search(REFUSED[name][1], outcome.stderr), outcome.stderr


@pytest.mark.parametrize("name", REFUSED_WHEN_WRITTEN)
def test_what_a_template_would_never_finish_is_told_when_it_writes(
    name: str, outcomes: dict[str, list[Outcome]]
) -> None:
    described, loaded = outcomes[name]
    assert described.kind == "well"
    assert loaded.kind == "refused"
    assert "too large" in loaded.stderr or "Exceeds the limit" in loaded.stderr


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_file_that_is_merely_odd_is_served(name: str, outcomes: dict[str, list[Outcome]]) -> None:
    assert [(outcome.kind, outcome.stderr) for outcome in outcomes[name]] == [("well", "")] * 2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mutant_ends_well_or_in_one_line(seed: int, outcomes: dict[str, list[Outcome]]) -> None:
    assert [outcome for outcome in outcomes[f"seed {seed}"] if not outcome.is_right] == []


def test_one_seed_is_one_file() -> None:
    assert mutant(7) == mutant(7)
    assert len({mutant_bytes(seed) for seed in range(20)}) > 15


@pytest.mark.parametrize(
    ("code", "stderr", "kind"),
    [
        (0, "", "well"),
        (1, "corral: it is damaged\n", "refused"),
        (1, "corral: one\ncorral: two\n", "unclear"),
        (1, "corral: \x1b[31mred\n", "unclear"),
        (2, "corral: wrong code\n", "unclear"),
        (1, "Traceback (most recent call last):\n", "traceback"),
        (-6, "", "abort"),
        (None, "", "hang"),
    ],
)
def test_the_fuzzer_tells_endings_apart(code: int | None, stderr: str, kind: str) -> None:
    outcome = Outcome(code, stderr, 0.1)
    assert outcome.kind == kind
    assert outcome.is_right == (kind in ("well", "refused"))
