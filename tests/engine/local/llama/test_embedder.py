"""Vectors by llama.cpp: the default model's, against llama-cpp-python's own; and those of an encoder."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
import trio
from numpy.typing import NDArray
from tests.engine.test_contract import Listener, started
from tests.fuzz.encoder import small_encoder

from corral.engine.contract import Embedding
from corral.engine.local.backend import Backend, Chunk, Embedder, StepAborted
from corral.engine.local.engine import LocalEngine
from corral.engine.local.llama.backend import LlamaBackend
from corral.engine.local.llama.options import LlamaOptions
from corral.engine.local.options import EngineOptions
from corral.errors import StartupError
from corral.events import collect
from corral.request import Embed, GenerationRequest, RawPrompt
from corral.settings import Settings
from corral.wiring.local import open_llama

TEXTS = (
    "The cat sat on the mat.",
    "A feline rested on the rug.",
    "Quarterly revenue rose by four per cent.",
    "der Dativ ist dem Genitiv sein Tod " * 9,
)

Vector = NDArray[np.float32] | NDArray[np.float64]
ALIKE = 0.999
"""Cosine of what must be the same: kernels for steps of other widths round otherwise, 0.99975 with Q4_0."""


def opened(path: Path, pooling: str = "auto", slots: int = 2) -> LlamaBackend:
    return LlamaBackend(
        path, LlamaOptions(EngineOptions(slots=slots), ctx_tokens=1024, threads=2, pooling=pooling)
    )


def embedder_of(backend: Backend) -> Embedder:
    assert backend.embedder is not None
    return backend.embedder


def tokens_of(backend: Backend, text: str) -> list[int]:
    vocabulary = backend.model.vocabulary
    bos = [] if vocabulary.bos is None else [vocabulary.bos]
    return [*bos, *vocabulary.tokenize(text, parse_control=False), *vocabulary.closers]


def alone(embedder: Embedder, tokens: Sequence[int]) -> NDArray[np.float32]:
    """The vector of an input that is computed by itself, in one step."""
    vectors = embedder.embed([Chunk(0, 0, tokens, len(tokens))])
    embedder.forget(0)
    return np.asarray(vectors[0])


def cosine(one: Vector, other: Vector) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.fixture(scope="module")
def pooled(model_path: Path) -> Iterator[LlamaBackend]:
    backend = opened(model_path, "mean")
    backend.warm_up()
    yield backend
    backend.close()


@pytest.mark.model
@pytest.mark.parametrize(
    ("pooling", "number"),
    [("mean", llama_cpp.LLAMA_POOLING_TYPE_MEAN), ("last", llama_cpp.LLAMA_POOLING_TYPE_LAST)],
)
def test_vectors_are_those_of_llama_cpp_python(model_path: Path, pooling: str, number: int) -> None:
    reference = llama_cpp.Llama(
        str(model_path), embedding=True, pooling_type=number, n_ctx=1024, n_threads=2, verbose=False
    )
    expected = [np.array(vector) for vector in reference.embed(list(TEXTS))]
    reference.close()
    backend = opened(model_path, pooling)
    embedder = embedder_of(backend)
    for text, vector in zip(TEXTS, expected, strict=True):
        tokens = tokens_of(backend, text)
        assert embedder.shape.dimensions == len(vector)
        parts = [tokens[at : at + 64] for at in range(0, len(tokens), 64)]
        made = np.zeros(len(vector))
        for number_, part in enumerate(parts):  # as the engine feeds what is longer than a step
            [own] = embedder.embed([Chunk(0, 64 * number_, part, len(part))])
            made = made + own * len(part) if pooling == "mean" else own
        embedder.forget(0)
        assert cosine(made, vector) > ALIKE, text
    backend.close()


@pytest.mark.model
def test_an_input_has_the_same_vector_beside_others(pooled: LlamaBackend) -> None:
    embedder = embedder_of(pooled)
    inputs = [tokens_of(pooled, text)[:60] for text in TEXTS]
    together = embedder.embed([Chunk(3 + n, 0, tokens, len(tokens)) for n, tokens in enumerate(inputs)])
    for number in range(len(inputs)):
        embedder.forget(3 + number)
    for tokens, vector in zip(inputs, together, strict=True):
        own = alone(embedder, tokens)
        assert cosine(own, vector) > ALIKE


@pytest.mark.model
def test_texts_that_mean_the_same_are_nearer_than_others(pooled: LlamaBackend) -> None:
    embedder = embedder_of(pooled)
    cat, feline, revenue = (alone(embedder, tokens_of(pooled, text)) for text in TEXTS[:3])
    assert cosine(cat, feline) > cosine(cat, revenue)


@pytest.mark.model
def test_what_is_generated_is_the_same_with_and_without(pooled: LlamaBackend) -> None:
    tokens = tokens_of(pooled, TEXTS[0])
    pooled.decode([Chunk(0, 0, tokens, 1)])
    before = pooled.logprobs(0, 5, 3)
    pooled.cache.remove(0, 0)
    alone(embedder_of(pooled), tokens)
    pooled.decode([Chunk(0, 0, tokens, 1)])
    assert pooled.logprobs(0, 5, 3) == before
    pooled.cache.remove(0, 0)


@pytest.mark.model
def test_an_aborted_step_leaves_what_was_there_before(pooled: LlamaBackend) -> None:
    embedder = embedder_of(pooled)
    tokens = (tokens_of(pooled, TEXTS[3]) * 3)[:200]
    [whole] = embedder.embed([Chunk(1, 0, tokens[:120], 120)])
    pooled.abort()
    with pytest.raises(StepAborted):
        embedder.embed([Chunk(1, 120, tokens[120:], 80), Chunk(2, 0, tokens[:120], 120)])
    pooled.rearm()
    [rest] = embedder.embed([Chunk(1, 120, tokens[120:], 80)])
    embedder.forget(1)
    joined = (whole * 120 + rest * 80) / 200
    assert cosine(joined, alone(embedder, tokens)) > ALIKE


@pytest.mark.model
def test_a_model_whose_file_names_no_pooling_makes_no_vectors_unless_told_how(model_path: Path) -> None:
    for pooling in ("auto", "off"):
        backend = opened(model_path, pooling)
        assert backend.generates
        assert backend.embedder is None
        backend.close()


@pytest.mark.model
def test_it_goes_on_after_a_reset(model_path: Path) -> None:
    backend = opened(model_path, "last")
    tokens = tokens_of(backend, TEXTS[0])
    before = alone(embedder_of(backend), tokens)
    backend.reset()
    assert cosine(before, alone(embedder_of(backend), tokens)) > ALIKE
    backend.close()


# A model that only reads


@pytest.fixture(scope="module")
def encoder_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder") / "small-encoder.gguf"
    path.write_bytes(small_encoder().written())
    return path


@pytest.fixture(scope="module")
def encoder(encoder_path: Path) -> Iterator[LlamaBackend]:
    backend = opened(encoder_path)
    backend.warm_up()
    yield backend
    backend.close()


def test_an_encoder_is_opened_and_generates_nothing(encoder: LlamaBackend) -> None:
    shape = embedder_of(encoder).shape
    assert not encoder.generates
    assert (shape.pooling, shape.can_split) == ("cls", False), "as its file says"
    assert shape.input_tokens == encoder.cache.shape.sequence_ctx_tokens == 64


def test_its_inputs_are_between_the_tokens_that_bert_wants(encoder: LlamaBackend) -> None:
    vocabulary = encoder.model.vocabulary
    assert vocabulary.text(vocabulary.bos or -1) == "[CLS]"
    assert [vocabulary.text(token) for token in vocabulary.closers] == ["[SEP]"]


def test_every_word_of_an_input_has_a_say_and_those_of_others_have_none(encoder: LlamaBackend) -> None:
    embedder = embedder_of(encoder)
    inputs = [tokens_of(encoder, text) for text in ("the cat sat", "the cat ran", "a dog " * 20)]
    together = embedder.embed([Chunk(n, 0, tokens, len(tokens)) for n, tokens in enumerate(inputs)])
    own = [alone(embedder, tokens) for tokens in inputs]
    for vector, expected in zip(together, own, strict=True):
        assert vector == pytest.approx(expected, abs=1e-4)
    assert own[0] != pytest.approx(own[1], abs=1e-3), "the first token's vector sees the last one"


def test_a_whole_step_of_an_encoder_can_be_cut_short(encoder: LlamaBackend) -> None:
    tokens = tokens_of(encoder, "a dog " * 20)
    encoder.abort()
    with pytest.raises(StepAborted):
        embedder_of(encoder).embed([Chunk(0, 0, tokens, len(tokens))])
    encoder.rearm()
    assert np.isfinite(alone(embedder_of(encoder), tokens)).all()


async def test_an_encoder_is_served_from_its_file_to_the_vectors_of_texts(encoder_path: Path) -> None:
    backend, name = await trio.to_thread.run_sync(open_llama, Settings(), str(encoder_path))
    try:
        assert name == "small-encoder"
        engine = LocalEngine(backend, EngineOptions(slots=2))
        listener = Listener()
        async with started(engine):
            request = GenerationRequest(embed=Embed((RawPrompt("the cat"), RawPrompt("a [SEP] dog"))))
            engine.check(request)
            prepared = await engine.prepare(request, client="somebody")
            engine.submit(prepared, 0, listener, max_tokens=0)
            await listener.is_released.wait()
        assert engine.embedding == Embedding(32, 64, "cls", reads_only=True)
        vectors = collect(listener.events_so_far).vectors
        expected = alone(embedder_of(backend), tokens_of(backend, "the cat"))
        made = np.frombuffer(vectors[0], "<f4")
        assert made == pytest.approx(expected / np.linalg.norm(expected), abs=1e-4)
        assert len(vectors) == 2
    finally:
        backend.close()


def test_the_setting_wins_over_the_file(encoder_path: Path) -> None:
    backend = opened(encoder_path, "mean")
    assert embedder_of(backend).shape.pooling == "mean"
    backend.close()


@pytest.mark.parametrize(
    ("said", "message"),
    [(0, "say how .*--pooling mean"), (4, "ranks texts"), (None, "say how .*--pooling mean")],
)
def test_an_encoder_that_nothing_can_be_done_with_is_not_opened(
    tmp_path: Path, said: int | None, message: str
) -> None:
    path = tmp_path / "encoder.gguf"
    path.write_bytes(small_encoder(pooling=said).written())
    with pytest.raises(StartupError, match=message):
        opened(path)
