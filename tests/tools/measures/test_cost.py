from tests.tools.measures.rounds import http

from tools.measures.cost import goals
from tools.measures.throughput import summarize_rounds


def test_cost_must_not_grow_with_the_streams() -> None:
    rows = [
        summarize_rounds("corral", streams, [], [http(100, 1, loop_s=loop_s, engine_s=0.1)])
        for streams, loop_s in ((1, 0.4), (16, 0.1), (64, 0.2))
    ]
    assert [goal.is_met for goal in goals(rows)] == [True, True, False, True]
