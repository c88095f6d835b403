from tools.lab.fleet import SLOTS, simulate


async def test_routing_in_virtual_time_serves_everybody_and_says_how() -> None:
    row = simulate(3, "corral", 300)
    assert row.requests == 300
    assert 0 < row.ttft_p50_s <= row.ttft_p95_s < row.answer_p95_s
    assert 0.3 < row.cached_share < 1
    assert 1 <= row.imbalance < 1.3


async def test_a_hot_beginning_melts_nobody_where_load_has_a_say() -> None:
    ours, blind = (simulate(20, policy, 20 * SLOTS * 3) for policy in ("corral", "most known"))
    assert ours.imbalance < blind.imbalance
    assert ours.answer_p95_s < blind.answer_p95_s


async def test_the_same_seed_is_the_same_day() -> None:
    first, again = (simulate(2, "corral", 100) for _ in range(2))
    assert (first.ttft_p95_s, first.cached_share) == (again.ttft_p95_s, again.cached_share)


async def test_as_much_is_found_computed_as_by_beginnings_alone_and_nobody_has_a_quarter_more() -> None:
    ours, blind, idle = (simulate(10, policy, 1500) for policy in ("corral", "most known", "least work"))
    assert ours.imbalance <= 1.25 < blind.imbalance
    assert ours.cached_share > blind.cached_share - 0.03
    assert ours.cached_share > idle.cached_share + 0.1
    assert ours.ttft_p95_s < idle.ttft_p95_s / 2
