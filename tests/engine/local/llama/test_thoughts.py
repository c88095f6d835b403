"""Thoughts of the real model, which has never been taught any: its prompt opens one, and a budget ends it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.harness import Client, serving

from corral.engine.local.llama.backend import LlamaBackend
from corral.engine.local.llama.options import LlamaOptions
from corral.engine.local.options import EngineOptions

pytestmark = pytest.mark.model

OPENING = """{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
<think>
{% if enable_thinking is defined and not enable_thinking %}
</think>

{% endif %}{% endif %}"""
"""A template whose prompt opens a thought, unless thinking is off."""
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
BUDGET_TOKENS = 50
QUESTION = "How is the weather in Rome?"


def thinker(model_path: Path) -> LlamaBackend:
    """The default model with that template; the server closes it."""
    backend = LlamaBackend(model_path, LlamaOptions(EngineOptions(slots=2), ctx_tokens=2048, threads=2))
    backend.model.chat_format = replace(backend.model.chat_format, template=OPENING)
    return backend


async def test_a_thought_ends_with_its_budget_and_the_answer_follows_be_it_text_or_a_call(
    model_path: Path,
) -> None:
    async with serving(thinker(model_path)) as client:
        text = await ask(client)
        assert text["message"]["content"].strip()
        assert text["thought_tokens"] == pytest.approx(BUDGET_TOKENS, abs=8), "the closer is counted with it"
        assert text["message"]["reasoning_content"].strip()
        assert "</think>" not in text["message"]["reasoning_content"]

        call = await ask(client, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
        assert call["finish_reason"] == "tool_calls"
        assert call["message"]["tool_calls"][0]["function"]["name"] == "weather"
        assert 0 < call["thought_tokens"] <= BUDGET_TOKENS + 8

        unthinking = await ask(client, reasoning_effort="none")
        assert unthinking["thought_tokens"] == 0
        assert unthinking["message"]["content"].strip()


async def ask(client: Client, **fields: Any) -> dict[str, Any]:
    answer = await client.chat(
        QUESTION, temperature=0, max_tokens=120, thinking_token_budget=BUDGET_TOKENS, **fields
    ).json()
    details = answer["usage"]["completion_tokens_details"]
    return {**answer["choices"][0], "thought_tokens": details["reasoning_tokens"]}
