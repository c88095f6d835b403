from bench import parse, summarize_rounds
from benchrun import HttpRound, PromptSource
from prompts import chatml, messages
from rawloop import RoundResult


def http(tokens, wall_s, *, loop_s=None, engine_s=None):
    return HttpRound(2, 110, tokens, wall_s, [0.1, 0.3], [0.01] * 4, loop_s, engine_s, 0.002, [])


def raw(tokens, wall_s):
    return RoundResult(110, tokens, wall_s / 2, wall_s / 2, wall_s, wall_s, [])


def test_ratio_is_the_median_of_ratios_within_a_repetition():
    # the machine was twice as slow in the second repetition: the ratio must not notice
    row = summarize_rounds(
        "all", 2, [raw(100, 1), raw(100, 2), raw(100, 1)], [http(100, 1.25), http(100, 2.5), http(100, 1)]
    )
    assert row.ratio == 0.8
    assert (row.raw_tokens_s, row.http_tokens_s) == (100, 80)


def test_shares_and_costs():
    row = summarize_rounds("serve", 2, [], [http(100, 2.0, loop_s=0.1, engine_s=1.9)])
    assert row.ratio is None
    assert (row.loop_share, row.engine_share) == (0.05, 0.95)
    assert (round(row.loop_us_per_token), round(row.server_us_per_token)) == (1000, 20_000)
    assert (row.ttft_ms.p50, row.gap_ms.p95) == (200, 10)


def test_a_peer_has_no_shares():
    row = summarize_rounds("peer", 2, [], [http(100, 2.0)])
    assert row.loop_share is row.server_us_per_token is None


def test_no_prompt_is_asked_twice_and_they_differ_early():
    source = PromptSource()
    prompts = [chatml(prompt) for prompt in source.take(50) + source.take(50, words=20)]
    assert len({prompt[: len("<|im_start|>system\n") + 8] for prompt in prompts}) == 100


def test_filler_lengthens_a_prompt():
    words = len(messages(3, words=500)[1]["content"].split()) - len(messages(3)[1]["content"].split())
    assert words == 500


def test_flags_after_dashes_go_to_the_server():
    args = parse(["serve", "--slots", "4", "--", "--queue", "9"])
    assert args.flags == ["--slots", "4", "--threads", "2", "--queue", "9"]


def test_cost_runs_on_the_scripted_server_at_more_streams():
    args = parse(["cost"])
    assert "serve_scripted.py" in args.server_cmd
    assert args.streams == [1, 16, 64]
