"""`corral serve --deterministic`: who asks alone is told the same, down to the log probabilities."""

from collections.abc import Callable

import openai
import pytest
from openai.types.chat import ChatCompletion
from tests.e2e.processes import MODEL, Server

pytestmark = pytest.mark.model

STORY = "The river ran past the old mill, and every morning the miller sang of bread. " * 12


def test_the_same_request_alone_gets_the_same_answer_whatever_is_cached(
    start: Callable[..., Server], sdk: Callable[..., openai.OpenAI]
) -> None:
    client = sdk(start("--deterministic").api)

    def ask(beginning: str = "") -> ChatCompletion:
        return client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"{beginning}{STORY}Go on."}],
            max_tokens=12,
            seed=7,
            logprobs=True,
            top_logprobs=3,
        )

    first, _, third = ask(), ask("Winter. "), ask()
    assert first.choices == third.choices
    assert first.usage is not None
    assert third.usage is not None
    assert first.usage.prompt_tokens > 128
    assert first.usage.prompt_tokens_details is not None
    assert third.usage.prompt_tokens_details is not None
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert third.usage.prompt_tokens_details.cached_tokens == 128
