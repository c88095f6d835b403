"""Prompts of which every token's log probability is wanted, on the scripted backend, turn by turn."""

import pytest
from tests.engine.local.test_worker import Bench

from corral.engine.local.scripted import ScriptedBackend
from corral.events import Started, TokenLogprob, collect

PROMPT = "what was asked before, and is asked again: " * 5


def scores(bench: Bench, key: int) -> tuple[TokenLogprob, ...]:
    """All tokens of a prompt, as the engine told them once it was in."""
    [started] = [event for event in bench.events[key] if isinstance(event, Started)]
    return started.prompt_logprobs


def texts(tokens: tuple[TokenLogprob, ...]) -> str:
    return b"".join(token.raw for token in tokens).decode()


def run(bench: Bench, *keys: int) -> None:
    while not set(keys) <= set(bench.released):
        bench.turn()


@pytest.mark.parametrize(("batch_rows", "idle_tokens"), [(512, 512), (512, 16), (40, 64), (33, 512)])
def test_every_token_is_told_however_the_prompt_is_cut(batch_rows: int, idle_tokens: int) -> None:
    bench = Bench(ScriptedBackend(batch_rows=batch_rows), idle_tokens)
    bench.submit(1, PROMPT, scores_prompt=True, top_logprobs=2)
    run(bench, 1)
    told = scores(bench, 1)
    assert texts(told) == PROMPT
    assert (told[0].logprob, told[0].top) == (0.0, ())
    assert all(len(token.top) == 2 and token.logprob < 0 for token in told[1:])
    assert collect(bench.events[1]).prompt_logprobs == told


def test_it_finds_nothing_in_the_cache_and_others_find_what_it_computed() -> None:
    bench = Bench(ScriptedBackend())
    for key, is_scored in ((1, False), (2, True), (3, False)):
        bench.submit(key, PROMPT, scores_prompt=is_scored, top_logprobs=0)
        run(bench, key)
    cached = [
        event.cached_tokens for key in (1, 2, 3) for event in bench.events[key] if isinstance(event, Started)
    ]
    assert cached == [0, 0, len(PROMPT) - 1]
    assert texts(scores(bench, 2)) == PROMPT
    assert scores(bench, 1) == scores(bench, 3) == ()


def test_several_at_once_beside_others_share_the_rows() -> None:
    bench = Bench(ScriptedBackend(batch_rows=40), 64)
    for key in range(6):
        bench.submit(key, f"{key}{PROMPT}", scores_prompt=key % 2 == 0, top_logprobs=0)
    run(bench, *range(6))
    for key in range(6):
        assert texts(scores(bench, key)) == (f"{key}{PROMPT}" if key % 2 == 0 else "")


def test_what_it_says_is_what_it_would_say_anyway() -> None:
    said = []
    for is_scored in (False, True):
        bench = Bench(ScriptedBackend())
        bench.submit(1, PROMPT, scores_prompt=is_scored, top_logprobs=0)
        run(bench, 1)
        said.append(collect(bench.events[1]).text)
    assert said[0] == said[1]


def test_one_that_had_to_step_back_tells_every_token_once() -> None:
    backend = ScriptedBackend(ctx_tokens=520, sequence_ctx_tokens=400, batch_rows=40)
    bench = Bench(backend, 64)
    for key in range(2):
        bench.submit(key, f"{key}{PROMPT}", scores_prompt=True, top_logprobs=0, max_tokens=100)
    run(bench, 0, 1)
    for key in range(2):
        assert texts(scores(bench, key)) == f"{key}{PROMPT}"
