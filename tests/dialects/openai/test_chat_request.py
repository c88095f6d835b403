"""What a Chat Completions request may say, and what is answered to one that says something else."""

import json
import re
from typing import Any

import pytest

from corral.dialects.openai.chat import ChatDialect
from corral.errors import InvalidRequest
from corral.request import Dry, GenerationRequest, Message, Mirostat, Sampling, ToolCall

CHAT = ChatDialect()
USER = {"role": "user", "content": "hi"}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/llama.png"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_of_a_part_that_is_no_text_it_is_said_that_only_text_is_read(kind: str) -> None:
    message = {"role": "user", "content": [{"type": kind, kind: {}}]}
    with pytest.raises(InvalidRequest, match=f"this model reads text only: it cannot take {kind} parts"):
        CHAT.parse(json.dumps({"messages": [message]}).encode(), {})


def parse(**fields: Any) -> GenerationRequest:
    return CHAT.parse(json.dumps({"messages": [USER], **fields}).encode(), {}).request


def refused(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        CHAT.parse(body, {})
    return caught.value


def refused_fields(**fields: Any) -> InvalidRequest:
    return refused(json.dumps({"messages": [USER], **fields}).encode())


def test_the_least_request_has_the_defaults() -> None:
    call = CHAT.parse(b'{"messages":[{"role":"user","content":"hi"}]}', {})
    assert call.request == GenerationRequest((Message("user", "hi"),))
    assert (call.model, call.wants_stream, call.wants_usage) == (None, False, False)


def test_null_means_absent() -> None:
    fields = (
        "model max_tokens max_completion_tokens temperature top_p top_k min_p seed stop n "
        "repeat_penalty frequency_penalty presence_penalty logit_bias logprobs top_logprobs stream "
        "stream_options tools tool_choice response_format audio modalities functions user metadata store"
    )
    assert parse(**dict.fromkeys(fields.split())) == parse()


def test_unknown_fields_pass() -> None:
    body = {"messages": [{**USER, "annotations": [1]}], "slot_affinity": {"deep": [None]}}
    assert CHAT.parse(json.dumps(body).encode(), {}).request == parse()


@pytest.mark.parametrize(
    ("message", "parsed"),
    [
        ({"role": "system", "content": "s"}, Message("system", "s")),
        ({"role": "developer", "content": "d"}, Message("developer", "d")),
        ({"role": "user", "content": "u", "name": "ann"}, Message("user", "u", name="ann")),
        ({"role": "assistant", "content": "pre"}, Message("assistant", "pre")),
        ({"role": "assistant", "content": "a", "tool_calls": []}, Message("assistant", "a")),
        ({"role": "assistant", "content": None, "refusal": "no"}, Message("assistant", "no")),
        (
            {"role": "assistant", "content": "a", "refusal": None, "audio": None, "function_call": None},
            Message("assistant", "a"),
        ),
        (
            {"role": "tool", "content": "3", "tool_call_id": "call_1"},
            Message("tool", "3", tool_call_id="call_1"),
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            Message("user", "a\nb"),
        ),
        (
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}],
            },
            Message("assistant", "a\nb"),
        ),
        ({"role": "user", "content": []}, Message("user", "")),
        ({"role": "user", "content": "a\u0000\ud83e\udd99"}, Message("user", "a\0🦙")),
    ],
)
def test_messages(message: dict[str, Any], parsed: Message) -> None:
    assert parse(messages=[message]).messages == (parsed,)


def test_tool_calls_of_the_conversation() -> None:
    result = {"role": "tool", "content": "1", "tool_call_id": "call_1"}
    messages = parse(
        messages=[USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, result]
    ).messages
    assert messages[1] == Message("assistant", "", tool_calls=(ToolCall("call_1", "add", '{"a":1}'),))


@pytest.mark.parametrize(
    ("fields", "sampling"),
    [
        ({"temperature": 0}, Sampling(temperature=0.0)),
        ({"temperature": 2, "top_p": 0.5, "min_p": 0}, Sampling(temperature=2.0, top_p=0.5, min_p=0.0)),
        ({"top_k": 7}, Sampling(top_k=7)),
        ({"top_k": -1}, Sampling(top_k=0)),
        ({"repeat_penalty": 1.1}, Sampling(repeat_penalty=1.1)),
        (
            {"frequency_penalty": -2, "presence_penalty": 2},
            Sampling(frequency_penalty=-2.0, presence_penalty=2.0),
        ),
        ({"logit_bias": {"5": -100, "0": 1.5}}, Sampling(logit_bias=((5, -100.0), (0, 1.5)))),
        ({"seed": -(2**63)}, Sampling(seed=-(2**63))),
        ({"seed": 2**63 - 1}, Sampling(seed=2**63 - 1)),
        ({"seed": 0}, Sampling(seed=0)),
        ({"seed": 7.0}, Sampling(seed=7)),
        ({"seed": -1}, Sampling(seed=None)),
        ({"top_k": 7.0}, Sampling(top_k=7)),
        ({"repetition_penalty": 1.1}, Sampling(repeat_penalty=1.1, penalty_window_tokens=None)),
        ({"repetition_penalty": 1, "repeat_penalty": 1.2}, Sampling(repeat_penalty=1.2)),
        ({"repeat_last_n": -1}, Sampling(penalty_window_tokens=None)),
        ({"repeat_last_n": 0}, Sampling(penalty_window_tokens=0)),
        ({"top_n_sigma": -1}, Sampling()),
        ({"typical_p": 0.5, "xtc_probability": 0.1}, Sampling(typical_p=0.5, xtc_probability=0.1)),
        (
            {"dynatemp_range": 0.5, "dynatemp_exponent": 2},
            Sampling(temperature_range=0.5, temperature_exponent=2.0),
        ),
        ({"dry_base": 3}, Sampling()),
        ({"dry_multiplier": 0.8}, Sampling(dry=Dry(0.8))),
        ({"dry_multiplier": 0.8, "dry_penalty_last_n": 0}, Sampling()),
        (
            {
                "dry_multiplier": 1,
                "dry_base": 0.5,
                "dry_allowed_length": 3,
                "dry_penalty_last_n": -1,
                "dry_sequence_breakers": [],
            },
            Sampling(dry=Dry(1.0, allowed_tokens=3, window_tokens=None, breakers=())),
        ),
        ({"mirostat": 0, "mirostat_tau": 3}, Sampling()),
        ({"mirostat": 2, "mirostat_tau": 3, "mirostat_eta": 0.5}, Sampling(mirostat=Mirostat(2, 3.0, 0.5))),
        (
            {"ignore_eos": True, "min_tokens": 3, "stop_token_ids": [5, 6]},
            Sampling(ignores_end=True, min_tokens=3, stop_tokens=(5, 6)),
        ),
    ],
)
def test_sampling(fields: dict[str, Any], sampling: Sampling) -> None:
    assert parse(**fields).sampling == sampling


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"max_tokens": 5}, "max_tokens", 5),
        ({"max_completion_tokens": 6}, "max_tokens", 6),
        ({"max_completion_tokens": 6, "max_tokens": 6}, "max_tokens", 6),
        ({"max_tokens": 150.0}, "max_tokens", 150),
        ({"max_tokens": -1}, "max_tokens", None),
        ({"n_predict": 7}, "max_tokens", 7),
        ({"n_predict": -1, "max_tokens": -1.0}, "max_tokens", None),
        ({"num_predict": -2}, "max_tokens", None),
        ({"n": 2.0}, "n", 2),
        ({"n_cmpl": 3, "n": 3}, "n", 3),
        ({"stop": "END"}, "stop", ("END",)),
        ({"include_stop_str_in_output": True}, "includes_stop", True),
        ({"no_stop_trim": True}, "includes_stop", True),
        ({"skip_special_tokens": False}, "shows_control", True),
        ({"stop": ["a", "b"]}, "stop", ("a", "b")),
        ({"stop": []}, "stop", ()),
        ({"n": 128}, "n", 128),
        ({"logprobs": False}, "top_logprobs", None),
        ({"logprobs": True}, "top_logprobs", 0),
        ({"logprobs": True, "top_logprobs": 20}, "top_logprobs", 20),
    ],
)
def test_limits_and_output(fields: dict[str, Any], name: str, value: object) -> None:
    assert getattr(parse(**fields), name) == value


@pytest.mark.parametrize(
    ("options", "wants_usage"), [(None, False), ({}, False), ({"include_usage": True}, True)]
)
def test_streaming(options: dict[str, bool] | None, wants_usage: bool) -> None:
    body = {"model": "m", "messages": [USER], "stream": True, "stream_options": options}
    call = CHAT.parse(json.dumps(body).encode(), {})
    assert (call.model, call.wants_stream, call.wants_usage) == ("m", True, wants_usage)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "bot", "content": "hi"}]}, "messages[1].role"),
        ({"messages": [{"role": 3, "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [USER, USER, {"role": "user", "content": [IMAGE]}]}, "messages[2].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "refusal", "refusal": "a"}]}]},
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "user", "content": "a", "name": 3}]}, "messages[0].name"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "type": "other"}]}, USER]},
            "messages[0].tool_calls[0].type",
        ),
        (
            {"messages": [{"role": "assistant", "content": "a", "function_call": {"name": "f"}}, USER]},
            "messages[0].function_call",
        ),
        ({"messages": [{"role": "assistant", "content": "a", "audio": {"id": "x"}}]}, "messages[0].audio"),
        ({"messages": [{"role": "tool", "content": "3"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "function", "name": "f", "content": "3"}]}, "messages[0].role"),
        ({"model": 3}, "model"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": -1}, "min_p"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"presence_penalty": -2.5}, "presence_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {str(2**31): 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"1": "2"}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 10**3000}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": 3}, "stop"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_completion_tokens": 5, "max_tokens": 6}, "max_tokens"),
        ({"max_tokens": 5, "n_predict": 6}, "n_predict"),
        ({"max_tokens": 150.5}, "max_tokens"),
        ({"max_tokens": 1e300}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": -3}, "max_tokens"),
        ({"n_predict": 0}, "n_predict"),
        ({"n_cmpl": 3, "n": 2}, "n_cmpl"),
        ({"n": 1.5}, "n"),
        ({"seed": 1e300}, "seed"),
        ({"top_k": 1.5}, "top_k"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 1.1, "repeat_penalty": 1.1}, "repetition_penalty"),
        ({"mirostat": 3}, "mirostat"),
        ({"min_tokens": 0.5}, "min_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"stop_token_ids": [2**31]}, "stop_token_ids[0]"),
        ({"stop_token_ids": [1] * 65}, "stop_token_ids"),
        ({"dry_sequence_breakers": [""]}, "dry_sequence_breakers[0]"),
        ({"dry_sequence_breakers": ["a"] * 9}, "dry_sequence_breakers"),
        ({"logprobs": 5}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    error = refused_fields(**fields)
    assert error.param == param
    assert f"'{param}'" in error.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The body is not valid JSON: .*truncated"),
        (b"{", "The body is not valid JSON: .*truncated"),
        (b"[]", "Invalid body: expected `object`, got `array`"),
        (b'"hi"', "Invalid body: expected `object`, got `str`"),
        (b"{}", "Missing required parameter: 'messages'"),
        (b"{'messages':[]}", "The body is not valid JSON"),
        (b'{"messages":[{"role":"user","content":"hi"}]} x', "The body is not valid JSON: .*trailing"),
        (b'{"x":"\xff"}', r"The body is not valid UTF-8 \(byte 6\)"),
        (b'{"x":"\xed\xa0\x80"}', r"The body is not valid UTF-8 \(byte 6\)"),
        (b'{"temperature":NaN}', "The body is not valid JSON"),
        (b'{"temperature":-Infinity}', "The body is not valid JSON"),
        (b'{"temperature":1e999}', "Invalid 'temperature': number out of range"),
        (b'{"unknown":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "The body is nested too deeply"),
        (b'{"functions":' + b'{"a":' * 100_000, "The body is nested too deeply"),
        (b'{"seed":' + b"1" * 10_000 + b"}", "Invalid 'seed': integer value out of range"),
        (b'{"messages":[{"role":"user","content":"\\ud800"}]}', "Surrogates .* must come in pairs"),
        (b'{"messages":[{"role":"user","content":"\\ud800, and text"}]}', "Surrogates .* must come in pairs"),
        (b'{"messages":[{"role":"user","content":"\\udc00"}]}', "The body is not valid JSON: .*surrogate"),
        (b'{"model":"\\ud83e\\ud83e"}', "The body is not valid JSON: .*surrogate"),
    ],
)
def test_bodies_that_are_no_request(body: bytes, message: str) -> None:
    assert re.search(message, refused(body).message)
