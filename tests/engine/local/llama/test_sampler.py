"""Every parameter of sampling has its effect, and none is forgotten by the quick ways."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.engine.local.llama.conftest import forget

from corral.engine.local.backend import Chunk
from corral.engine.local.llama.backend import LlamaBackend
from corral.engine.local.llama.sampler import ChainSampler, GreedySampler, TopKSampler, has_only, seed_of_draw
from corral.request import Dry, Mirostat, Sampling

pytestmark = pytest.mark.model

GREEDY = Sampling(temperature=0)
PROMPT = "One two three four five six. One two three four five"
CHANGED: dict[str, Any] = {
    "temperature": 0.7,
    "temperature_range": 0.5,
    "temperature_exponent": 2.0,
    "top_k": 7,
    "top_n_sigma": 1.0,
    "typical_p": 0.5,
    "top_p": 0.5,
    "min_p": 0.5,
    "xtc_probability": 1.0,
    "xtc_threshold": 0.2,
    "repeat_penalty": 1.5,
    "frequency_penalty": 1.0,
    "presence_penalty": 1.0,
    "penalty_window_tokens": None,
    "dry": Dry(5.0),
    "mirostat": Mirostat(2),
    "logit_bias": ((5, 1.0),),
    "stop_tokens": (5,),
    "min_tokens": 3,
    "ignores_end": True,
    "seed": 3,
}
"""Every field of Sampling, with a value that is not its default."""


def test_every_parameter_is_tried_here() -> None:
    assert list(CHANGED) == [own.name for own in fields(Sampling) if own.compare]


@pytest.mark.parametrize("name", CHANGED)
def test_a_quick_way_serves_only_what_it_is_known_to_read(name: str) -> None:
    changed: dict[str, Any] = {name: CHANGED[name]}
    assert TopKSampler.serves(replace(Sampling(), **changed), 50_000) == (name in TopKSampler.reads)
    is_greedy_still = name != "temperature"
    served = GreedySampler.serves(replace(GREEDY, **changed))
    assert served == (is_greedy_still and name in GreedySampler.reads)
    assert not has_only(replace(Sampling(), **changed), ())


@pytest.fixture
def prompt(llama: LlamaBackend) -> Iterator[list[int]]:
    """A prompt that the backend has just computed: row 0 says what follows."""
    tokens = llama.model.vocabulary.tokenize(PROMPT, parse_control=False)
    llama.decode([Chunk(0, 0, tokens, rows=1)])
    yield tokens
    forget(llama)


def draws(llama: LlamaBackend, sampling: Sampling, prompt: list[int], times: int = 200) -> list[int]:
    sampler = llama.sampler(sampling, prompt)
    drawn = [sampler.sample(0) for _ in range(times)]
    sampler.close()
    return drawn


def logits(llama: LlamaBackend) -> NDArray[np.float32]:
    return llama._row(0).copy()


WILD = Sampling(temperature=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=7)


def test_top_n_sigma_keeps_what_is_within_n_deviations_of_the_best(
    llama: LlamaBackend, prompt: list[int]
) -> None:
    row = logits(llama)
    least = row.max() - 2 * row.std()
    assert min(row[draws(llama, WILD, prompt)]) < least, "without it there is more"
    assert min(row[draws(llama, replace(WILD, top_n_sigma=2.0), prompt)]) >= least - 1e-3


def test_xtc_leaves_out_the_likeliest_of_the_likely(llama: LlamaBackend, prompt: list[int]) -> None:
    likely = replace(WILD, temperature=1.0, xtc_threshold=0.001)
    best = int(logits(llama).argmax())
    assert best in draws(llama, likely, prompt)
    assert best not in draws(llama, replace(likely, xtc_probability=1.0), prompt)


@pytest.mark.parametrize(
    "changed",
    [
        {"typical_p": 0.3},
        {"temperature_range": 1.4},
        {"temperature_range": 1.4, "temperature_exponent": 0.5},
        {"mirostat": Mirostat(1, tau=2.0)},
        {"mirostat": Mirostat(2, tau=2.0)},
        {"mirostat": Mirostat(2, tau=9.0, eta=0.9)},
    ],
)
def test_other_ways_to_draw_draw_otherwise_and_the_same_each_time(
    llama: LlamaBackend, prompt: list[int], changed: dict[str, Any]
) -> None:
    drawn = draws(llama, replace(WILD, **changed), prompt)
    assert drawn != draws(llama, WILD, prompt)
    assert drawn == draws(llama, replace(WILD, **changed), prompt)
    assert len(set(drawn)) > 1


def test_a_window_over_everything_sees_the_beginning(llama: LlamaBackend, prompt: list[int]) -> None:
    best = int(logits(llama).argmax())
    early = [best, *([prompt[0]] * 70)]
    near = replace(GREEDY, presence_penalty=2.0, repeat_penalty=10.0)
    assert draws(llama, near, early, 1) == [best], "it is further back than the usual window"
    assert draws(llama, replace(near, penalty_window_tokens=None), early, 1) != [best]


def test_dry_breaks_a_repetition(llama: LlamaBackend, prompt: list[int]) -> None:
    [usual] = draws(llama, GREEDY, prompt, 1)
    assert llama.model.vocabulary.pieces[usual] == b" six"
    dry = Dry(50.0, breakers=("zzz",))
    assert draws(llama, replace(GREEDY, dry=dry), prompt, 1) != [usual]
    broken = replace(dry, breakers=(" four",))
    assert draws(llama, replace(GREEDY, dry=broken), prompt, 1) == [usual], "not over a breaker"
    llama.model.make_ready(replace(GREEDY, dry=dry))
    assert draws(llama, replace(GREEDY, dry=dry), prompt, 1) != [usual], "a copy does the same"
    short = replace(dry, window_tokens=3)
    assert draws(llama, replace(GREEDY, dry=short), prompt, 1) == [usual], "it does not look that far back"


def test_more_kinds_of_dry_than_are_kept_work_too(llama: LlamaBackend, prompt: list[int]) -> None:
    for number in range(40):
        sampling = replace(GREEDY, dry=Dry(50.0, breakers=(f"z{number}",)))
        llama.model.make_ready(sampling)
        llama.model.make_ready(sampling)
        assert len(draws(llama, sampling, prompt, 1)) == 1


def test_the_end_is_not_picked_too_early_or_never(llama: LlamaBackend, prompt: list[int]) -> None:
    end = min(llama.model.vocabulary.end_tokens)
    eager = replace(GREEDY, logit_bias=((end, 1000.0),))
    assert draws(llama, eager, prompt, 2) == [end] * 2
    late = draws(llama, replace(eager, min_tokens=3), prompt, 5)
    assert end not in late[:3]
    assert late[3:] == [end] * 2
    assert end not in draws(llama, replace(eager, ignores_end=True), prompt, 5)


@pytest.mark.parametrize("ignores_end", [True, False])
def test_the_quick_way_to_the_likeliest_token_knows_an_end_that_is_ignored(ignores_end: bool) -> None:
    logits = np.array([1, 9, 3, 8, 2], np.float32)
    kept = logits.copy()
    sampler = GreedySampler(lambda row: logits, replace(GREEDY, ignores_end=ignores_end), end_tokens=(1, 3))
    assert sampler.sample(0) == (2 if ignores_end else 1)
    allowed = np.array([True, False, False, True, True])
    assert sampler.sample(0, allowed) == (4 if ignores_end else 3)
    assert (logits == kept).all(), "they are llama.cpp's"


def test_what_the_request_itself_ends_with_is_not_picked_too_early_either(
    llama: LlamaBackend, prompt: list[int]
) -> None:
    [usual] = draws(llama, GREEDY, prompt, 1)
    drawn = draws(llama, replace(GREEDY, stop_tokens=(usual,), min_tokens=2), prompt, 3)
    assert usual not in drawn[:2]
    assert drawn[2] == usual


# Seeds


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**33 - 1, 2**63 - 1, -(2**63), -2, 4294967293 + 2])
def test_a_seed_is_a_seed(llama: LlamaBackend, prompt: list[int], seed: int) -> None:
    sampling = replace(WILD, seed=seed)
    assert draws(llama, sampling, prompt, 50) == draws(llama, sampling, prompt, 50)


def test_no_seed_is_another_each_time(llama: LlamaBackend, prompt: list[int]) -> None:
    unseeded = replace(WILD, seed=None)
    assert draws(llama, unseeded, prompt, 50) != draws(llama, unseeded, prompt, 50)


@pytest.mark.parametrize("other", [42 + 2**32, 42 + 2**33, -42, 43])
def test_seeds_that_are_equal_in_their_last_bits_differ(
    llama: LlamaBackend, prompt: list[int], other: int
) -> None:
    first, second = (draws(llama, replace(WILD, seed=seed), prompt, 50) for seed in (42, other))
    assert first != second


@given(st.integers(-(2**63), 2**63 - 1))
def test_no_seed_is_llama_cpps_sign_for_none(seed: int) -> None:
    assert 0 <= seed_of_draw(seed) < 0xFFFFFFFF
    assert seed_of_draw(seed) == seed_of_draw(seed)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(2, 128))
def test_every_choice_has_a_seed_of_its_own_and_the_first_the_requests(seed: int, n: int) -> None:
    choices = [Sampling(seed=seed).of_choice(choice).seed for choice in range(n)]
    assert choices[0] == seed
    assert len(set(choices)) == n
    assert Sampling(seed=None).of_choice(3).seed is None


def test_the_whole_chain_serves_the_rest(llama: LlamaBackend, prompt: list[int]) -> None:
    sampler = llama.sampler(replace(GREEDY, min_tokens=1), prompt)
    assert isinstance(sampler, ChainSampler)
    sampler.close()
