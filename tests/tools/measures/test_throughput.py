import pytest
from tests.tools.measures.rounds import http

from tools.measures.throughput import goals, summarize_rounds
from tools.servers.yardstick import RoundResult


def raw(tokens: int, wall_s: float) -> RoundResult:
    return RoundResult(110, tokens, wall_s / 2, wall_s / 2, wall_s, wall_s, [])


def test_ratio_is_the_median_of_ratios_within_a_repetition() -> None:
    # the machine was twice as slow in the second repetition: the ratio must not notice
    row = summarize_rounds(
        "all", 2, [raw(100, 1), raw(100, 2), raw(100, 1)], [http(100, 1.25), http(100, 2.5), http(100, 1)]
    )
    assert row.ratio == 0.8
    assert (row.raw_tokens_s, row.http_tokens_s) == (100, 80)


def test_shares_and_costs() -> None:
    row = summarize_rounds("serve", 2, [], [http(100, 2.0, loop_s=0.1, engine_s=1.75, other_s=0.15)])
    assert row.ratio is None
    assert row.loop_share == pytest.approx(0.05)
    assert row.engine_share == pytest.approx(0.95)
    assert row.loop_us_per_token == pytest.approx(1000)
    assert row.server_us_per_token == pytest.approx(20_000)
    assert row.engine_us_per_token == pytest.approx(17_500)
    assert (row.ttft_ms.p50, row.gap_ms.p95) == (200, 10)


def test_a_peer_has_no_shares() -> None:
    row = summarize_rounds("peer", 2, [], [http(100, 2.0)])
    assert row.loop_share is row.server_us_per_token is None


def test_the_peer_is_a_ratio_within_a_repetition_and_a_goal() -> None:
    ours, peers = [http(100, 1), http(100, 2)], [http(100, 2), http(100, 3)]
    row = summarize_rounds("corral", 8, [], ours, peers)
    assert row.peer_ratio == 1.75
    assert [goal.is_met for goal in goals([row])] == [True]
    assert goals([summarize_rounds("corral", 8, [], ours)]) == []
