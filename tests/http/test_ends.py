"""When an answer ends, and what of its end is shown, as a request wants it."""

from typing import Any

import pytest
from tests.harness import serving

from corral.engine.local.scripted import END, START, ScriptedBackend, replying


@pytest.mark.parametrize(
    ("fields", "text", "finish", "stop_reason"),
    [
        ({}, "one two", "stop", None),
        ({"stop": "tw"}, "one ", "stop", "tw"),
        ({"stop": "tw", "include_stop_str_in_output": True}, "one tw", "stop", "tw"),
        ({"stop": ["zzz", "ne"], "no_stop_trim": True}, "one", "stop", "ne"),
        ({"stop_token_ids": [ord("t")]}, "one ", "stop", ord("t")),
        ({"stop_token_ids": [ord("t")], "min_tokens": 5}, "one uwo", "stop", None),
        ({"max_tokens": 3}, "one", "length", None),
        ({"n_predict": 3.0}, "one", "length", None),
        ({"max_tokens": -1}, "one two", "stop", None),
    ],
)
@pytest.mark.parametrize("streams", [True, False])
async def test_an_answer_ends_as_it_was_asked_to(
    fields: dict[str, Any], text: str, finish: str, stop_reason: str | int | None, streams: bool
) -> None:
    backend = ScriptedBackend(replying(lambda _: "one two"))
    async with serving(backend) as client:
        if streams:
            body = (await client.chat(stream=True, **fields).body()).decode()
            assert f'"finish_reason":"{finish}"' in body
            said = "".join(part.split('"')[0] for part in body.split('"content":"')[1:])
            assert said == text
        else:
            [choice] = (await client.chat(**fields).json())["choices"]
            assert choice["message"]["content"] == text
            assert (choice["finish_reason"], choice["stop_reason"]) == (finish, stop_reason)


@pytest.mark.parametrize(("fields", "tokens"), [({"min_tokens": 9}, 10), ({"ignore_eos": True}, 12)])
async def test_the_models_own_end_is_put_off_or_never_comes(fields: dict[str, Any], tokens: int) -> None:
    async with serving(ScriptedBackend(replying(lambda _: "hi"))) as client:
        answer = await client.chat(max_tokens=12, **fields).json()
        assert answer["usage"]["completion_tokens"] >= tokens


async def test_a_stop_token_must_be_one_of_the_models() -> None:
    async with serving(ScriptedBackend()) as client:
        refused = client.chat(stop_token_ids=[99999])
        assert (await refused.json())["error"]["param"] == "stop_token_ids"
        assert refused.status == 400


@pytest.mark.parametrize(("fields", "text"), [({}, "ab"), ({"skip_special_tokens": False}, "a<|im_start|>b")])
async def test_control_tokens_are_text_only_for_who_asks(fields: dict[str, Any], text: str) -> None:
    following = {ord("\n"): ord("a"), ord("a"): START, START: ord("b")}
    async with serving(ScriptedBackend(lambda tokens: following.get(tokens[-1], END))) as client:
        answer = await client.chat(**fields).json()
        assert answer["choices"][0]["message"]["content"] == text
