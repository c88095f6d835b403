"""Every template that llama.cpp is tested with renders a conversation with all there can be in one."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests import llama_models

from corral.templates.environment import ChatTemplate, TemplateFault

pytestmark = llama_models.needs_them

REFUSED = {
    "google-gemma-2-2b-it.jinja": "System role not supported",  # nor tools
    "meta-llama-Llama-3.1-8B-Instruct.jinja": "This model only supports single tool-calls at once!",
    "meta-llama-Llama-3.2-3B-Instruct.jinja": "This model only supports single tool-calls at once!",
    "meta-llama-Llama-3.3-70B-Instruct.jinja": "This model only supports single tool-calls at once!",
}
TAKES_TEXT = {"meetkai-functionary-medium-v3.2.jinja"}
"""Templates that want a call's arguments as a text and not as an object."""

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tells the weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": ["integer", "null"], "default": None},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "ping", "parameters": {}}},
]


def call(number: int, arguments: Any) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": arguments}
    return {"id": f"callcall{number}", "type": "function", "function": function}


def result(number: int) -> dict[str, Any]:
    return {
        "role": "tool",
        "tool_call_id": f"callcall{number}",
        "name": "get_weather",
        "content": f"sunny{number}",
    }


def conversation(*, takes_text: bool, is_parallel: bool) -> list[dict[str, Any]]:
    def arguments(city: str) -> Any:
        return json.dumps({"city": city}) if takes_text else {"city": city}

    calls, results = [call(1, arguments("Oslo"))], [result(1)]
    if is_parallel:
        calls.append(call(2, arguments("Rome")))
        results.append(result(2))
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "reasoning_content": "I ask.", "tool_calls": calls},
        *results,
        {"role": "assistant", "content": "It is fine.", "reasoning_content": "Sunny."},
        {"role": "user", "content": "Thanks!"},
    ]


def refusal(template: ChatTemplate, messages: list[dict[str, Any]], switches: dict[str, Any]) -> str | None:
    try:
        template.render(messages, TOOLS, **switches)
    except TemplateFault as fault:
        return str(fault)
    return None


@pytest.mark.parametrize("path", llama_models.templates(), ids=lambda path: path.stem)
def test_it_renders_tools_calls_results_and_thoughts(path: Path) -> None:
    template = ChatTemplate(
        path.read_text(), bos_text="<s>", eos_text="</s>", clock=lambda: datetime(2026, 1, 2)
    )
    takes_text = path.name in TAKES_TEXT
    texts = []
    for is_parallel in (False, True):
        for switches in ({}, {"enable_thinking": True}, {"enable_thinking": False}):
            messages = conversation(takes_text=takes_text, is_parallel=is_parallel)
            reason = refusal(template, messages, switches)
            assert reason in (None, REFUSED.get(path.name))
            if reason is None:
                texts.append(template.render(messages, TOOLS, **switches))
    if not texts:  # it has neither, and says so: what is left is a plain conversation
        texts.append(template.render(messages[1:2]))
        assert "Weather?" in texts[0]
        return
    assert all("Weather?" in text and "Thanks!" in text and "It is fine." in text for text in texts)


def test_there_are_all_seventy() -> None:
    assert len(llama_models.templates()) == 70
    assert {path.name for path in llama_models.templates()} >= REFUSED.keys() | TAKES_TEXT
