"""Our requests in an upstream's words, and what cannot be said in them."""

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.engine.tales import asking

from corral.dialects.openai.chat_request import generation_request, read_chat
from corral.engine.upstream.ask import body_of, check
from corral.engine.upstream.kinds import KINDS, KindName
from corral.errors import InvalidRequest
from corral.request import GenerationRequest, Message, RawPrompt, ToolCall

USER = {"role": "user", "content": "hello"}


def parsed(**fields: Any) -> GenerationRequest:
    """As a client of ours asks."""
    return generation_request(read_chat(json.dumps({"messages": [USER], **fields}).encode()))


def asked(request: GenerationRequest, kind: KindName = "llama-server", *, choice: int = 0) -> Any:
    return json.loads(body_of(request, KINDS[kind], model="m", choice=choice, max_tokens=5, id="r1"))


def refused_param(request: GenerationRequest, kind: KindName) -> str | None:
    try:
        check(request, KINDS[kind])
    except InvalidRequest as error:
        return error.param
    return None


def test_an_answer_is_always_asked_for_as_a_stream_with_its_usage() -> None:
    body = asked(asking("hello"), "openai")
    assert body == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "messages": [USER],
    }


def test_only_what_the_client_chose_of_sampling_is_sent() -> None:
    assert asked(parsed(temperature=0.8, top_k=40)).keys() >= {"temperature", "top_k"}
    assert not asked(parsed()).keys() & {"temperature", "top_k", "top_p", "min_p"}


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_a_kind_does_not_take_is_refused_by_the_name_that_clients_know(kind: KindName) -> None:
    values: dict[str, Any] = {
        "temperature": 0.5,
        "top_k": 3,
        "min_p": 0.2,
        "typical_p": 0.5,
        "dry_multiplier": 0.8,
        "mirostat": 2,
        "repeat_penalty": 1.1,
        "stop_token_ids": [3],
        "min_tokens": 2,
        "ignore_eos": True,
        "skip_special_tokens": False,
        "include_stop_str_in_output": True,
        "guided_regex": "a+",
        "guided_choice": ["a", "b"],
        "grammar": 'root ::= "a"',
        "chat_template_kwargs": {"a": 1},
    }
    refused = set()
    for name, value in values.items():
        request = parsed(**{name: value})
        if (param := refused_param(request, kind)) is not None:
            assert param == name
            refused.add(name)
        else:
            assert len(asked(request, kind)) > len(asked(parsed(), kind)), f"{name} had no effect"
    assert (
        refused
        == set(values)
        - {
            "openai": {"temperature"},
            "llama-cpp-python": {"temperature", "top_k", "min_p", "repeat_penalty", "min_tokens", "grammar"},
            "corral": set(values),
            "vllm": set(values) - {"typical_p", "dry_multiplier", "mirostat"},
            "sglang": set(values) - {"typical_p", "dry_multiplier", "mirostat", "guided_choice"},
            "llama-server": set(values)
            - {
                "stop_token_ids",
                "min_tokens",
                "skip_special_tokens",
                "include_stop_str_in_output",
                "guided_regex",
                "guided_choice",
            },
        }[kind]
    )


def test_a_conversation_goes_with_its_calls_results_and_thoughts() -> None:
    request = GenerationRequest(
        (
            Message("developer", "be brief"),
            Message("user", "weather?"),
            Message("assistant", "", tool_calls=(ToolCall("c1", "look", '{"a":1}'),), reasoning="hm"),
            Message("tool", "no such city", tool_call_id="c1", is_error=True),
        )
    )
    messages = asked(request)["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool"]
    assert messages[2]["reasoning_content"] == "hm"
    assert messages[2]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"a":1}'}
    assert messages[3] == {"role": "tool", "content": "Error: no such city", "tool_call_id": "c1"}
    assert asked(request, "openai")["messages"][0]["role"] == "developer"
    assert "reasoning_content" not in asked(request, "openai")["messages"][2]


def test_an_answer_that_was_begun_is_continued_where_that_must_be_said() -> None:
    request = GenerationRequest((Message("user", "a"), Message("assistant", "b")))
    for kind in ("llama-server", "vllm"):
        assert asked(request, kind)["continue_final_message"] is True
        assert asked(request, kind)["add_generation_prompt"] is False
    assert asked(request, "sglang")["continue_final_message"] is True
    assert "continue_final_message" not in asked(request, "corral")
    with pytest.raises(InvalidRequest, match="not known to continue"):
        check(request, KINDS["openai"])


def test_a_turn_that_called_tools_is_not_continued() -> None:
    turn = Message("assistant", "", tool_calls=(ToolCall("c1", "look", "{}"),))
    request = GenerationRequest((Message("user", "a"), turn))
    assert "continue_final_message" not in asked(request, "vllm")
    check(request, KINDS["openai"])


def test_of_tools_only_those_are_sent_that_may_be_called() -> None:
    tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("a", "b", "c")]
    one = {"type": "function", "function": {"name": "b"}}
    two = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [tools[0] | one, tools[2]]},
    }
    body = asked(parsed(tools=tools, tool_choice=one, parallel_tool_calls=False), "vllm")
    assert [tool["function"]["name"] for tool in body["tools"]] == ["b"]
    assert body["tool_choice"] == one
    assert body["parallel_tool_calls"] is False
    body = asked(parsed(tools=tools, tool_choice=two))
    assert [tool["function"]["name"] for tool in body["tools"]] == ["b", "c"]
    assert body["tool_choice"] == "required"


def test_to_who_knows_no_named_tool_the_only_one_is_a_tool_that_must_be_called() -> None:
    """To llama-server any object is "auto"."""
    tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("a", "b")]
    body = asked(parsed(tools=tools, tool_choice={"type": "function", "function": {"name": "b"}}))
    assert [tool["function"]["name"] for tool in body["tools"]] == ["b"]
    assert body["tool_choice"] == "required"


def test_a_tool_whose_input_has_a_grammar_is_refused_since_nobody_would_hold_to_it() -> None:
    grammar = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "a+"}}
    request = parsed(tools=[{"type": "custom", "custom": {"name": "run", "format": grammar}}])
    with pytest.raises(InvalidRequest, match=r"tools\[0\]"):
        check(request, KINDS["vllm"])


@pytest.mark.parametrize(
    ("kind", "field"),
    [("llama-server", "thinking_budget_tokens"), ("vllm", "thinking_token_budget"), ("openai", None)],
)
def test_how_to_think_is_said_as_the_kind_has_it(kind: KindName, field: str | None) -> None:
    body = asked(parsed(thinking_token_budget=99, reasoning_effort="low"), kind)
    assert body["reasoning_effort"] == "low"
    assert [name for name, value in body.items() if value == 99] == ([field] if field else [])
    off = asked(parsed(reasoning_effort="none"), kind)
    if kind == "openai":
        assert off["reasoning_effort"] == "none"
    else:
        assert off["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_schema_goes_as_a_response_format(kind: KindName) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    said = asked(parsed(response_format=form), kind)["response_format"]
    if kind == "llama-cpp-python":
        assert said == {"type": "json_object", "schema": schema}
    else:
        assert said["json_schema"]["schema"] == schema
    plain = asked(parsed(response_format={"type": "json_object"}), kind)
    assert plain["response_format"] == {"type": "json_object"}


def test_each_choice_has_a_seed_of_its_own() -> None:
    request = parsed(seed=4, n=2)
    assert asked(request)["seed"] == 4
    assert 0 <= asked(request, choice=1)["seed"] < 2**31
    assert asked(request, choice=1)["seed"] != 4


def test_a_raw_prompt_is_a_completion_of_text_or_of_tokens() -> None:
    request = replace(asking(""), messages=(), prompt=RawPrompt("once", suffix="end"))
    body = asked(request, "corral")
    assert (body["prompt"], body["suffix"]) == ("once", "end")
    assert "messages" not in body
    assert asked(replace(request, prompt=RawPrompt(tokens=(1, 2))))["prompt"] == [1, 2]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "corral"])
def test_an_end_to_write_towards_is_refused_where_it_would_be_passed_over(kind: KindName) -> None:
    request = replace(asking(""), messages=(), prompt=RawPrompt("once", suffix="end"))
    assert refused_param(request, kind) == "suffix"


def test_texts_to_embed_are_refused_in_plain_words() -> None:
    from corral.request import Embed

    with pytest.raises(InvalidRequest, match="no texts to embed"):
        check(GenerationRequest(embed=Embed((RawPrompt("a"),))), KINDS["vllm"])


def test_template_variables_are_passed_on() -> None:
    request = replace(asking("x"), template_kwargs='{"mode": "fast"}')
    assert asked(request)["chat_template_kwargs"] == {"mode": "fast"}
