from tools.clients.sse import Answer
from tools.measures.pace import gaps_within


def test_gaps_within_an_interval_and_across_its_end() -> None:
    answer = Answer(content_s=[1.0, 2.0, 2.5, 4.0, 9.0])
    assert gaps_within(answer, 2.0, 3.0) == [0.5, 1.5]
    assert gaps_within(answer, 5.0, 6.0) == []
