import pytest

from tools.clients.sse import Answer
from tools.measures.beside import together_tokens_s


def test_throughput_counts_while_all_streams_run() -> None:
    early = Answer(content_s=[1.0, 2.0, 3.0, 4.0])
    late = Answer(content_s=[2.0, 3.0, 4.0, 5.0, 6.0])
    assert together_tokens_s([early, late]) == 2.0  # from 2 to 4 s: two deltas of each
    assert together_tokens_s([early, Answer()]) == pytest.approx(1.0)
