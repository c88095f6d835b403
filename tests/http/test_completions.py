"""`POST /v1/completions` over a model that continues the alphabet, and ends after z."""

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from openai.types import Completion
from tests.harness import Client, Exchange, Gate, serving
from tests.http.watch import opening

from corral.engine.local.backend import Infill
from corral.engine.local.scripted import CONTROL_TEXTS, END, START, ByteVocabulary, ScriptedBackend

PATH = "/v1/completions"
PREFIX, SUFFIX, MIDDLE = 258, 259, 260


def alphabet(tokens: Sequence[int]) -> int:
    letter = next((token for token in reversed(tokens) if 97 <= token <= 122), 96)
    return END if letter == 122 else letter + 1


class InfillVocabulary(ByteVocabulary):
    pieces = (*ByteVocabulary.pieces, b"", b"", b"")
    infill = Infill(PREFIX, SUFFIX, MIDDLE)


def complete(client: Client, prompt: Any, **fields: Any) -> Exchange:
    return client.send("POST", PATH, {"model": "scripted", "prompt": prompt, **fields})


async def texts(client: Client, prompt: Any, **fields: Any) -> list[str]:
    answer = await complete(client, prompt, **fields).json()
    Completion.model_validate(answer, strict=True)
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(answer["choices"])))
    return [choice["text"] for choice in answer["choices"]]


def prompts_of(backend: ScriptedBackend) -> list[list[int]]:
    """What the engine was given, prompt after prompt."""
    return [list(chunk.tokens) for step in backend.steps for chunk in step if chunk.position == 0]


async def test_a_text_is_continued_without_a_template() -> None:
    backend = ScriptedBackend(alphabet)
    async with serving(backend) as client:
        answer = await complete(client, "uvw").json()
        assert answer["object"] == "text_completion"
        assert answer["id"].startswith("cmpl-")
        assert answer["choices"] == [
            {"index": 0, "text": "xyz", "logprobs": None, "finish_reason": "stop", "stop_reason": None}
        ]
        assert answer["usage"]["prompt_tokens"] == 3
        assert answer["usage"]["total_tokens"] == 3 + answer["usage"]["completion_tokens"]
        assert prompts_of(backend) == [list(b"uvw")]


async def test_sixteen_tokens_come_unless_it_says_otherwise() -> None:
    async with serving(ScriptedBackend(alphabet)) as client:
        answer = await complete(client, "a").json()
        assert answer["choices"][0]["text"] == "bcdefghijklmnopq"
        assert answer["choices"][0]["finish_reason"] == "length"
        assert await texts(client, "a", max_tokens=3) == ["bcd"]
        assert await texts(client, "a", max_tokens=-1) == ["bcdefghijklmnopqrstuvwxyz"]
        assert await texts(client, "a", max_tokens=20, stop=["h", "x"]) == ["bcdefg"]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (["w", "x", "y"], ["xyz", "yz", "z"]),
        ([119], ["xyz"]),
        ([[119], [120, 121]], ["xyz", "z"]),
        (["w", [120]], ["xyz", "yz"]),
    ],
)
async def test_prompts_are_texts_or_tokens_one_or_several(prompt: Any, expected: list[str]) -> None:
    async with serving(ScriptedBackend(alphabet)) as client:
        assert await texts(client, prompt) == expected
        assert await texts(client, prompt, n=2, echo=False) == [text for text in expected for _ in range(2)]
        answer = await complete(client, prompt, n=2).json()
        assert answer["usage"]["prompt_tokens"] == (
            1 if prompt == [119] else sum(len(part) for part in prompt)
        ), "each prompt is counted once"


async def test_more_prompts_than_slots_wait_for_each_other() -> None:
    async with serving(ScriptedBackend(alphabet), slots=2, queue_requests=10) as client:
        assert await texts(client, ["x"] * 9) == ["yz"] * 9
        refused = complete(client, ["x"] * 13)
        assert (await refused.json())["error"]["param"] == "prompt"
        assert refused.status == 400


async def test_the_echo_is_what_was_asked() -> None:
    async with serving(ScriptedBackend(alphabet)) as client:
        assert await texts(client, ["wé", [119, 195, 169]], echo=True, max_tokens=2) == ["wéxy", "wéxy"]
        stream = (await complete(client, ["w", "x"], echo=True, stream=True).body()).decode()
        assert folded(stream) == ["wxyz", "xyz"]


def folded(stream: str) -> list[str]:
    """The texts of a stream, by index, as OpenAI's types see its chunks."""
    frames = stream.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    said: dict[int, str] = {}
    ended: set[int] = set()
    ids = set()
    for frame in frames[:-2]:
        chunk = json.loads(frame.removeprefix("data: "))
        ids.add(chunk["id"])
        for choice in chunk["choices"]:
            assert choice["index"] not in ended, "nothing comes after a finish_reason"
            said[choice["index"]] = said.get(choice["index"], "") + choice["text"]
            if choice["finish_reason"] is not None:
                ended.add(choice["index"])
    assert len(ids) == 1
    assert ended == set(said)
    return [said[index] for index in sorted(said)]


@pytest.mark.parametrize("prompt", ["w", ["a", "t", "z"], [[97]]])
async def test_a_stream_says_what_the_whole_answer_says(prompt: Any) -> None:
    async with serving(ScriptedBackend(alphabet)) as client:
        whole = await complete(client, prompt, n=2, logprobs=2).json()
        stream = complete(
            client, prompt, n=2, logprobs=2, stream=True, stream_options={"include_usage": True}
        )
        body = (await stream.body()).decode()
        assert folded(body) == [choice["text"] for choice in whole["choices"]]
        chunks = [json.loads(frame.removeprefix("data: ")) for frame in body.split("\n\n")[:-2]]
        assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1]["choices"] == []
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            assert chunks[-1]["usage"][name] == whole["usage"][name]
        for index, choice in enumerate(whole["choices"]):
            parts = [
                part["logprobs"]
                for chunk in chunks
                for part in chunk["choices"]
                if part["index"] == index and part["logprobs"]
            ]
            for name, values in choice["logprobs"].items():
                assert [value for part in parts for value in part[name]] == values


async def test_logprobs_come_in_the_old_shape() -> None:
    async with serving(ScriptedBackend(alphabet)) as client:
        answer = await complete(client, "w", logprobs=2, max_tokens=2).json()
        logprobs = answer["choices"][0]["logprobs"]
        assert logprobs["tokens"] == ["x", "y"]
        assert logprobs["text_offset"] == [0, 1]
        assert [len(top) for top in logprobs["top_logprobs"]] == [2, 2]
        assert logprobs["top_logprobs"][0]["x"] == logprobs["token_logprobs"][0]
        answer = await complete(client, "w", logprobs=0, max_tokens=1).json()
        assert answer["choices"][0]["logprobs"]["top_logprobs"] == [{}]
        assert answer["choices"][0]["logprobs"]["tokens"] == ["x"]


@pytest.mark.parametrize("batch_rows", [512, 33])
async def test_a_prompt_that_is_echoed_has_logprobs_too(batch_rows: int) -> None:
    prompt = "".join(chr(97 + index % 26) for index in range(100))
    async with serving(ScriptedBackend(alphabet, batch_rows=batch_rows)) as client:
        for _ in range(2):  # the second one could have found all of it in the cache
            answer = await complete(client, prompt, echo=True, logprobs=2, max_tokens=3).json()
            [choice] = answer["choices"]
            assert choice["text"] == prompt + "wxy"
            logprobs = choice["logprobs"]
            assert "".join(logprobs["tokens"]) == choice["text"]
            assert logprobs["text_offset"] == list(range(103))
            assert (logprobs["token_logprobs"][0], logprobs["top_logprobs"][0]) == (None, None)
            assert all(len(top) == 2 for top in logprobs["top_logprobs"][1:])
            assert all(
                top[token] == value
                for token, value, top in zip(
                    logprobs["tokens"][1:],
                    logprobs["token_logprobs"][1:],
                    logprobs["top_logprobs"][1:],
                    strict=True,
                )
            )
            assert answer["usage"]["completion_tokens"] == 3
            stream = complete(client, prompt, echo=True, logprobs=2, max_tokens=3, stream=True)
            assert folded((await stream.body()).decode()) == [choice["text"]]


async def test_a_prompt_may_be_scored_and_not_continued() -> None:
    async with serving(ScriptedBackend(alphabet)) as client:
        answer = await complete(client, ["abc", "xyz"], echo=True, logprobs=0, max_tokens=0).json()
        assert [choice["text"] for choice in answer["choices"]] == ["abc", "xyz"]
        assert [choice["logprobs"]["tokens"] for choice in answer["choices"]] == [list("abc"), list("xyz")]
        assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
        assert answer["usage"]["completion_tokens"] == 0
        stream = complete(client, "abc", echo=True, logprobs=0, max_tokens=0, stream=True)
        assert folded((await stream.body()).decode()) == ["abc"]


async def test_the_best_of_several_come_and_all_are_counted() -> None:
    async with serving(ScriptedBackend(alphabet)) as client:
        answer = await complete(client, ["w", "x"], best_of=3, max_tokens=2).json()
        assert [choice["text"] for choice in answer["choices"]] == ["xy", "yz"]
        assert [choice["logprobs"] for choice in answer["choices"]] == [None, None]
        assert answer["usage"]["completion_tokens"] == 2 * 3 * 2


async def test_names_of_control_tokens_are_words_unless_the_request_says_otherwise() -> None:
    backend = ScriptedBackend(alphabet)
    async with serving(backend) as client:
        name = next(iter(CONTROL_TEXTS))
        await complete(client, f"{name}x").body()
        await complete(client, f"{name}x", parse_special=True).body()
        await complete(client, [START, 120]).body()
        assert prompts_of(backend) == [list(f"{name}x".encode()), [START, 120], [START, 120]]


async def test_what_stands_between_is_asked_for_with_the_models_own_tokens() -> None:
    backend = ScriptedBackend(alphabet)
    backend.model.vocabulary = InfillVocabulary()
    async with serving(backend) as client:
        await complete(client, "a", suffix="c").body()
        assert prompts_of(backend) == [[PREFIX, 97, SUFFIX, 99, MIDDLE]]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": "a", "suffix": "c"}, "suffix"),
        ({"prompt": [97], "suffix": "c"}, "suffix"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [97, "a"]}, "prompt"),
        ({"prompt": [999]}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "a", "best_of": 1, "n": 2}, "best_of"),
        ({"prompt": "a", "best_of": 2, "stream": True}, "best_of"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 0, "echo": True}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 99_999}, "max_tokens"),
        ({"prompt": "a" * 5000}, "prompt"),
        ({"prompt": [97] * 5000}, "prompt"),
        ({"prompt": "a", "n": 100}, "n"),
        ({"prompt": "a", "stream_options": {}}, "stream_options"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    async with serving(ScriptedBackend(alphabet)) as client:
        exchange = client.send("POST", PATH, fields)
        error = (await exchange.json())["error"]
        assert (exchange.status, error["param"]) == (400, param), error


async def test_a_full_queue_takes_all_prompts_or_none() -> None:
    gate = Gate()
    async with serving(ScriptedBackend(alphabet, on_step=gate), slots=1, queue_requests=2) as client:
        async with opening(gate):
            first = complete(client, "a", stream=True)
            await first.chunk()
            await gate.wait_arrived()
            refused = complete(client, ["x", "y", "z"])
            assert "retry-after" in (await refused.json(), refused.headers)[1]
            assert refused.status == 429
            assert client.service.waiting == 0
            taken = complete(client, ["x", "y"], stream=True)
            await taken.chunk()
            assert client.service.waiting == 2
        assert folded((await taken.body()).decode())[1:] == ["z"]
        await first.body()


async def test_who_leaves_takes_all_its_prompts_along() -> None:
    gate = Gate()
    async with (
        serving(ScriptedBackend(alphabet, on_step=gate), slots=2, queue_requests=9) as client,
        opening(gate),
    ):
        stream = complete(client, ["a", "b", "c", "d"], stream=True)
        await stream.chunk()
        await gate.wait_arrived()
        assert client.service.waiting == 2
        stream.leave()
        await stream.is_over.wait()
        assert client.service.waiting == 0
        gate.open()
        await client.service.wait_settled()
        assert client.service.ledger.totals.by_outcome == {("completions", "disconnected"): 4}


async def test_who_asks_is_told_of_each_prompts_progress() -> None:
    gate = Gate()
    backend = ScriptedBackend(alphabet, on_step=gate, batch_tokens=64)
    async with serving(backend, slots=1) as client, opening(gate):
        stream = complete(client, ["a" * 100, "b" * 100], stream=True, return_progress=True)
        await stream.chunk()
        await gate.wait_arrived()
        gate.open()
        chunks = [
            json.loads(f.removeprefix("data: ")) for f in (await stream.body()).decode().split("\n\n")[:-2]
        ]
        waited = {chunk["choices"][0]["index"] for chunk in chunks if "queue_progress" in chunk}
        assert len(waited) == 1, "one of them had the slot at once"
        assert {chunk["choices"][0]["index"] for chunk in chunks if "prompt_progress" in chunk} == {0, 1}


async def test_the_status_shows_what_was_asked_where_content_is_shown() -> None:
    async with serving(ScriptedBackend(alphabet), status_content=True) as client:
        await complete(client, ["wx", [120, 121]]).body()
        await client.service.wait_settled()
        recent = (await client.send("GET", "/status/json").json())["recent"]
        recent.sort(key=lambda request: str(request["id"]))
        assert [request["messages"] for request in recent] == [
            [{"role": "prompt", "content": "wx"}],
            [{"role": "prompt", "content": "120 121"}],
        ]
        assert [request["output"] for request in recent] == [[[{"text": "yz"}]], [[{"text": "z"}]]]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"guided_regex": "[0-9]b+c"}, "[0-9]b+c"),
        ({"guided_choice": ["left"]}, "left"),
        ({"grammar": 'root ::= "yes"'}, "yes"),
        ({"structured_outputs": {"choice": ["left"]}}, "left"),
        ({"json_schema": {"const": 7}}, "7"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": 7}}}}, "7"),
    ],
)
async def test_a_text_has_the_form_that_is_asked_for(fields: dict[str, Any], expected: str) -> None:
    async with serving(ScriptedBackend(alphabet)) as client:
        [first, second] = await texts(client, ["uvw", "a"], max_tokens=50, **fields)
        assert re.fullmatch(expected, first)
        assert re.fullmatch(expected, second)


async def test_a_form_that_cannot_be_followed_is_refused_by_name() -> None:
    async with serving(ScriptedBackend(alphabet)) as client:
        refused = complete(client, "a", guided_regex="[a")
        assert (await refused.json())["error"]["param"] == "guided_regex"
        assert refused.status == 400
        both = complete(client, "a", guided_regex="a", json_schema={})
        assert (await both.json())["error"]["param"] in ("guided_regex", "json_schema")
        assert both.status == 400
        await client.service.wait_settled()
        client.service.check_idle()
