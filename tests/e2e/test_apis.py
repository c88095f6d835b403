"""Messages and Responses from the real server with the real model: whole and streamed, they say the same."""

import anthropic
import openai
import pytest
from tests.e2e.processes import MODEL, Server

pytestmark = pytest.mark.model

QUESTION = "What is a corral? Tell me in a few words."


def test_messages(wide: Server) -> None:
    with anthropic.Anthropic(base_url=wide.base, api_key="none", max_retries=0, timeout=60.0) as claude:
        counted = claude.messages.count_tokens(model="m", messages=[{"role": "user", "content": QUESTION}])
        whole = claude.messages.create(
            model="m",
            max_tokens=12,
            messages=[{"role": "user", "content": QUESTION}],
            extra_body={"temperature": 0},
        )
        with claude.messages.stream(
            model="m",
            max_tokens=12,
            messages=[{"role": "user", "content": QUESTION}],
            extra_body={"temperature": 0},
        ) as stream:
            streamed = stream.get_final_message()
    [text], [streamed_text] = whole.content, streamed.content
    assert text.type == streamed_text.type == "text"
    assert text.text == streamed_text.text != ""
    assert (whole.stop_reason, whole.model) == ("max_tokens", MODEL)
    cached = whole.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == whole.usage.input_tokens + cached
    assert whole.usage.output_tokens == streamed.usage.output_tokens == 12


def test_responses(wide: Server) -> None:
    with openai.OpenAI(base_url=wide.api, api_key="none", max_retries=0, timeout=60.0) as gpt:
        whole = gpt.responses.create(model="m", input=QUESTION, max_output_tokens=12, temperature=0)
        *_, last = gpt.responses.create(
            model="m", input=QUESTION, max_output_tokens=12, temperature=0, stream=True
        )
        assert last.type == "response.incomplete"
        assert whole.output_text == last.response.output_text != ""
        assert whole.usage is not None
        assert whole.usage.output_tokens == 12
        again = gpt.responses.create(
            model="m", input="Why?", previous_response_id=whole.id, max_output_tokens=4, temperature=0
        )
        assert again.usage is not None
        assert again.usage.input_tokens > whole.usage.input_tokens + 12
        assert again.usage.input_tokens_details.cached_tokens >= whole.usage.input_tokens, (
            "nothing is done twice"
        )
