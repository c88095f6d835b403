"""Tools and structure on the real model, which has never seen either, with OpenAI's own package."""

import json
from typing import Any

import openai
import pytest
from tests.e2e.processes import Server

pytestmark = pytest.mark.model

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,  # a small model would add to it without end
        },
    },
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def client_of(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.api, api_key="none", max_retries=0, timeout=60.0)


def test_a_loop_of_tools(wide: Server) -> None:
    messages: list[Any] = [{"role": "user", "content": "How is the weather in Paris?"}]
    with client_of(wide) as gpt:
        asked = gpt.chat.completions.create(
            model="m", messages=messages, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False
        )
        [choice] = asked.choices
        assert choice.finish_reason == "tool_calls"
        [call] = choice.message.tool_calls or []
        assert call.type == "function"
        assert isinstance(json.loads(call.function.arguments)["city"], str)
        messages += [
            choice.message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 20 degrees."},
        ]
        answered = gpt.chat.completions.create(
            model="m", messages=messages, tools=[WEATHER], tool_choice="none", max_tokens=30
        )
        assert answered.choices[0].message.content
        assert not answered.choices[0].message.tool_calls


def test_a_turn_of_tools_prefills_only_what_is_new(wide: Server) -> None:
    messages: list[Any] = [{"role": "user", "content": "How is the weather in Rome?"}]
    with client_of(wide) as gpt:
        for turn in range(4):
            answer = gpt.chat.completions.create(
                model="m",
                messages=messages,
                tools=[WEATHER],
                tool_choice="required",
                parallel_tool_calls=False,
            )
            usage = answer.usage
            assert usage is not None
            assert usage.prompt_tokens_details is not None
            if turn:
                assert usage.prompt_tokens - (usage.prompt_tokens_details.cached_tokens or 0) <= 40
            message = answer.choices[0].message
            [call] = message.tool_calls or []
            messages += [
                message.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": call.id, "content": "Sunny."},
            ]


def test_a_call_that_is_left_in_its_middle_is_cheap_to_ask_for_again(wide: Server) -> None:
    question: Any = [{"role": "user", "content": "Tell me all about the weather of London, please."}]
    with client_of(wide) as gpt:
        with gpt.chat.completions.create(
            model="m", messages=question, tools=[WEATHER], tool_choice="required", stream=True
        ) as stream:
            for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.tool_calls:
                    break
        again = gpt.chat.completions.create(
            model="m", messages=question, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False
        )
        assert again.choices[0].message.tool_calls
        assert again.usage is not None
        assert again.usage.prompt_tokens_details is not None
        assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1


def strict_weather(*, is_strict: bool) -> Any:
    parameters = {
        "type": "object",
        "properties": {"city": {"enum": ["Lagos", "Quito"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    return {
        "type": "function",
        "function": {"name": "get_weather", "strict": is_strict, "parameters": parameters},
    }


def test_a_call_that_the_model_makes_by_itself_follows_a_strict_schema(wide: Server) -> None:
    messages: list[Any] = []
    for city in ("Oslo", "Bonn", "Cork", "Riga"):  # a pattern that even a small model goes on with
        told = json.dumps({"name": "get_weather", "arguments": {"city": city}})
        messages += [
            {"role": "user", "content": f"How is the weather in {city}?"},
            {"role": "assistant", "content": f"<tool_call>\n{told}\n</tool_call>"},
        ]
    messages.append({"role": "user", "content": "How is the weather in Rome?"})
    cities = []
    with client_of(wide) as gpt:
        for is_strict in (False, True):
            answer = gpt.chat.completions.create(
                model="m",
                messages=messages,
                tools=[strict_weather(is_strict=is_strict)],
                temperature=0,
                max_tokens=60,
                parallel_tool_calls=False,
            )
            [call] = answer.choices[0].message.tool_calls or []
            assert call.type == "function"
            cities.append(json.loads(call.function.arguments)["city"])
    assert cities[0] == "Rome"
    assert cities[1] in ("Lagos", "Quito")


@pytest.mark.parametrize("seed", range(10))
def test_what_is_held_to_a_schema_is_valid_at_any_temperature(wide: Server, seed: int) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
    with client_of(wide) as gpt:
        answer = gpt.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "Describe a person as JSON."}],
            response_format=form,
            temperature=1,
            seed=seed,
        )
    assert answer.choices[0].finish_reason == "stop"
    person = json.loads(answer.choices[0].message.content or "")
    assert set(person) == {"name", "age", "tags"}
    assert 0 <= person["age"] <= 150
    assert set(person["tags"]) <= {"a", "b", "c"}
