"""What upstreams say they compute."""

import pytest

from corral.engine.upstream.kinds import KINDS
from corral.engine.upstream.slots import busy_of


@pytest.mark.parametrize("number", ["1e999", "1.2.3", "e"])
def test_a_number_that_is_none_says_nothing(number: str) -> None:
    assert busy_of(KINDS["vllm"], 200, f"vllm:num_requests_running{{}} {number}\n".encode()) is None


def test_several_models_of_one_server_are_added() -> None:
    said = b'vllm:num_requests_running{model="a"} 2.0\nvllm:num_requests_running{model="b"} 1\n'
    assert busy_of(KINDS["vllm"], 200, said) == 3
