"""`/tokenize`, `/detokenize` and `/apply-template`: what llama-server's clients ask."""

from typing import Any

import pytest
from tests.harness import serving

from corral.engine.local.scripted import END, START, ScriptedBackend

HELLO = list(b"hello")


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [
        ({"content": "hello"}, HELLO),
        ({"content": ""}, []),
        ({}, []),
        ({"content": "hello", "add_special": True}, HELLO),
        ({"content": "a<|im_end|>b"}, [97, END, 98]),
        ({"content": "a<|im_end|>b", "parse_special": False}, list(b"a<|im_end|>b")),
        ({"content": [START, "hello", 10]}, [START, *HELLO, 10]),
        ({"content": "é", "with_pieces": True}, [{"id": 195, "piece": [195]}, {"id": 169, "piece": [169]}]),
        ({"content": "<|im_end|>", "with_pieces": True}, [{"id": END, "piece": "<|im_end|>"}]),
    ],
)
async def test_a_text_is_tokenized(asked: dict[str, Any], tokens: list[Any]) -> None:
    async with serving(ScriptedBackend()) as client:
        exchange = client.send("POST", "/tokenize", asked)
        assert await exchange.json() == {"tokens": tokens}
        assert exchange.status == 200


async def test_every_text_begins_with_the_token_that_prompts_begin_with_where_it_is_asked_for() -> None:
    backend = ScriptedBackend()
    backend.model.vocabulary.bos = START
    async with serving(backend) as client:
        for special, tokens in ((True, [START, 97]), (False, [97])):
            asked = {"content": "a", "add_special": special}
            assert await client.send("POST", "/tokenize", asked).json() == {"tokens": tokens}


@pytest.mark.parametrize(
    ("tokens", "text"), [(HELLO, "hello"), ([], ""), ([195, 169, START], "é<|im_start|>"), ([195], "\ufffd")]
)
async def test_tokens_become_text_again(tokens: list[int], text: str) -> None:
    async with serving(ScriptedBackend()) as client:
        assert await client.send("POST", "/detokenize", {"tokens": tokens}).json() == {"content": text}


async def test_a_conversation_is_shown_as_the_model_is_given_it() -> None:
    async with serving(ScriptedBackend()) as client:
        messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a<|im_end|>"}]
        assert await client.send("POST", "/apply-template", {"messages": messages}).json() == {
            "prompt": "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\na<|im_end|><|im_end|>\n"
            "<|im_start|>assistant\n"
        }


@pytest.mark.parametrize(
    ("path", "asked", "param"),
    [
        ("/tokenize", {"content": 5}, "content"),
        ("/tokenize", {"content": "a", "add_special": "yes"}, "add_special"),
        ("/tokenize", {"content": "x" * 5000}, "content"),
        ("/tokenize", {"content": [1] * 5000}, "content"),
        ("/tokenize", {"content": [999], "with_pieces": True}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
        ("/detokenize", {"tokens": [999]}, "tokens"),
        ("/detokenize", {"tokens": [1] * 5000}, "tokens"),
        ("/apply-template", {}, "messages"),
        ("/apply-template", {"messages": [{"role": "user", "content": "x" * 5000}]}, "messages"),
    ],
)
async def test_what_cannot_be_is_refused_in_openais_shape(path: str, asked: Any, param: str) -> None:
    async with serving(ScriptedBackend()) as client:
        exchange = client.send("POST", path, asked)
        error = (await exchange.json())["error"]
        assert (exchange.status, error["param"], error["type"]) == (400, param, "invalid_request_error"), (
            error
        )


async def test_they_are_for_clients_with_a_key() -> None:
    async with serving(ScriptedBackend(), api_keys=("key",)) as client:
        for path in ("/tokenize", "/detokenize", "/apply-template"):
            exchange = client.send("POST", path, {})
            await exchange.body()
            assert exchange.status == 401
