import msgspec
import pytest

import bench_company
import bench_leaving
from bench import EVERYTHING, parse
from bench_company import _gaps_within
from bench_drafting import equal_tokens
from bench_throughput import goals, summarize_rounds
from benchrun import HttpRound, PromptSource, Watch
from figures import Threshold
from prompts import chatml, messages, tag
from rawloop import RoundResult
from serverproc import SCRIPTED_COMMAND, Bed
from sheet import Sheet
from sse import Answer, Usage


def http(tokens, wall_s, *, loop_s=None, engine_s=None, other_s=None):
    return HttpRound(2, 110, 6, tokens, wall_s, [0.1, 0.3], [0.01] * 4, loop_s, engine_s, other_s, 0.002, [])


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
    row = summarize_rounds("serve", 2, [], [http(100, 2.0, loop_s=0.1, engine_s=1.75, other_s=0.15)])
    assert row.ratio is None
    assert (row.loop_share, row.engine_share) == (0.05, pytest.approx(0.95))
    assert (round(row.loop_us_per_token), round(row.server_us_per_token)) == (1000, 20_000)
    assert round(row.engine_us_per_token) == 17_500
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


def test_neighbours_among_prompts_share_next_to_nothing():
    tags = [tag(number) for number in range(1_000_000, 1_000_400)]
    assert len(set(tags)) == 400
    assert all(len({tag[:2] for tag in tags[at : at + 16]}) == 16 for at in range(0, 384, 16))


def test_the_same_system_prompt_or_others_of_its_length():
    source = PromptSource()
    shared, apart = source.shared(8, words=50), source.apart(8, words=50)
    assert len({conversation[0]["content"] for conversation in shared}) == 1
    assert len({conversation[0]["content"] for conversation in apart}) == 8
    assert len({len(conversation[0]["content"]) for conversation in shared + apart}) == 1
    assert len({conversation[1]["content"] for conversation in shared + apart}) == 16


def test_cached_tokens_are_read_where_a_server_says_them():
    usage = msgspec.json.decode(
        b'{"prompt_tokens":10,"prompt_tokens_details":{"cached_tokens":4}}', type=Usage
    )
    assert (usage.cached_tokens, usage.prefilled_tokens) == (4, 6)
    usage = msgspec.json.decode(b'{"prompt_tokens":10,"prompt_tokens_details":null}', type=Usage)
    assert (usage.cached_tokens, usage.prefilled_tokens) == (0, 10)


def test_the_peer_is_a_ratio_within_a_repetition_and_a_goal():
    ours, peers = [http(100, 1), http(100, 2)], [http(100, 2), http(100, 3)]
    row = summarize_rounds("corral", 8, [], ours, peers)
    assert row.peer_ratio == 1.75
    assert [goal.is_met for goal in goals("all", [row])] == [True]
    assert goals("all", [summarize_rounds("corral", 8, [], ours)]) == []


def test_cost_must_not_grow_with_the_streams():
    rows = [
        summarize_rounds("corral", streams, [], [http(100, 1, loop_s=loop_s, engine_s=0.1)])
        for streams, loop_s in ((1, 0.4), (16, 0.1), (64, 0.2))
    ]
    assert [goal.is_met for goal in goals("cost", rows)] == [True, True, False, True]


def test_a_watch_waits_for_all_or_for_one_that_is_over():
    watch, first, second = Watch(2, 2), Answer(content_s=[1.0, 2.0]), Answer(content_s=[1.0])
    for answer in (first, first, second):
        watch(answer)
    assert not watch.ready.is_set()
    second.content_s.append(2.0)
    watch(second)
    assert watch.ready.is_set()
    late = Watch(2, 2)
    late.over()
    assert late.ready.is_set()


def test_gaps_within_an_interval_and_across_its_end():
    answer = Answer(content_s=[1.0, 2.0, 2.5, 4.0, 9.0])
    assert _gaps_within(answer, 2.0, 3.0) == [0.5, 1.5]
    assert _gaps_within(answer, 5.0, 6.0) == []


def test_equal_tokens_end_where_texts_differ():
    def answer(text):
        return Answer(pieces=[text], usage=Usage(completion_tokens=5))

    assert equal_tokens(answer("abcdefghij"), answer("abcdefghij")) == 5
    assert equal_tokens(answer("abcdXfghij"), answer("abcdefghij")) == 2


@pytest.fixture
def scripted():
    return Bed(SCRIPTED_COMMAND, ("--step-ms", "2"), repeats=1)


async def test_a_retry_computes_the_other_half(scripted):
    sheet = await bench_leaving.retry(scripted)
    assert not sheet.broken
    assert 0.3 < sheet.rows[0].share < 0.7


async def test_a_shared_prompt_is_prefilled_once(scripted):
    sheet = await bench_company.shared(scripted)
    assert not sheet.broken
    [row] = sheet.rows
    assert row.prefilled_tokens < 0.3 * row.prompt_tokens
    assert row.apart_prefilled_tokens > 0.9 * row.apart_prompt_tokens


def test_a_sheet_becomes_json_with_its_rows():
    row = summarize_rounds("corral", 8, [], [http(100, 1)])
    goal = Threshold("x", 1.5, 1.4, at_most=False)
    sheet = Sheet("all", ["a"], [["1"]], [row], [goal], "what it means", (0.1, 0.2, 0.3))
    decoded = msgspec.json.decode(msgspec.json.encode([sheet]))
    assert decoded[0]["rows"][0]["streams"] == 8
    assert str(goal) == "MISSED x 1.400 >= 1.5"


def test_flags_after_dashes_go_to_the_server():
    args = parse(["serve", "--slots", "4", "--", "--queue", "9"])
    assert (args.slots, args.flags) == (4, ["--queue", "9"])


def test_engine_runs_every_figure_of_the_engine():
    assert {"residual", "retry", "shared", "pace", "drafting", "cost", "all"} == set(EVERYTHING)


def test_a_peer_that_nobody_would_ask_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse(["drafting", "--peer", "http://127.0.0.1:1"])
    assert "no use for --peer" in capsys.readouterr().err
