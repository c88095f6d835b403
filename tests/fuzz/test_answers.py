"""A little of the parser's fuzzing, and that it finds what it looks for.

CORRAL_FUZZ_EXAMPLES sets how many answers are tried; tests/fuzz/answers.py goes on for as long as one likes.
"""

import os
import time
from collections.abc import Iterator

import pytest
from tests.fuzz.answers import Meaning, Model, Reading, Tried, fuzz, models, read, timed

from corral.decoding.blocks import Ending

MODELS = list(models())


def test_whatever_is_written_is_read_and_in_any_pieces_alike() -> None:
    tried = fuzz(1, MODELS, inputs=int(os.environ.get("CORRAL_FUZZ_EXAMPLES", "150")))
    assert tried.faults == []
    assert tried.characters > 10_000


def raising(model: Model, ending: Ending, prompt: str, text: str, sizes: Iterator[int]) -> Meaning:
    if "<" in text:
        raise IndexError("a marker")
    return read(model, ending, prompt, text, sizes)


def differing(model: Model, ending: Ending, prompt: str, text: str, sizes: Iterator[int]) -> Meaning:
    return (*read(model, ending, prompt, text, sizes), next(sizes))


@pytest.mark.parametrize(("reading", "told"), [(raising, "IndexError"), (differing, "means the same")])
def test_a_parser_at_fault_is_found_out(reading: Reading, told: str) -> None:
    tried = fuzz(1, MODELS[:3], inputs=20, read=reading)
    assert any(told in fault for fault in tried.faults)


def test_time_that_grows_with_the_square_of_the_length_is_found_out() -> None:
    def quadratic(text: str) -> None:
        began_s = time.process_time()
        while time.process_time() - began_s < 0.03 * (len(text) / 200) ** 2:
            pass

    with pytest.raises(AssertionError, match="times as long"):
        timed(Tried(), lambda times: 200 * times * "x", quadratic)
