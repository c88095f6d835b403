"""Some of the fuzzer's requests, one through each template."""

import pytest
from tests import llama_models
from tests.fuzz.prompts import verdict

pytestmark = llama_models.needs_them


@pytest.mark.parametrize("seed", range(140))
def test_no_request_has_other_control_tokens_than_plain_words_have(seed: int) -> None:
    assert verdict(seed)[1] in ("written", "refused")
