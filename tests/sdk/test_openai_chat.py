"""OpenAI's own package against a server on a socket: Chat Completions."""

from functools import partial
from typing import Any

import openai
import pytest
from tests.sdk.covers import covering
from tests.sdk.server import Server

covers = partial(covering, "openai (Python)", "Chat")


def asking(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "gpt-whatever", "messages": [{"role": "user", "content": text}], **fields}


@covers("stream")
def test_a_stream_and_an_answer_are_the_same_completion(gpt: openai.OpenAI) -> None:
    whole = gpt.chat.completions.create(**asking("SAY"))
    with gpt.chat.completions.stream(**asking("SAY")) as stream:
        texts = [event.delta for event in stream if event.type == "content.delta"]
        streamed = stream.get_final_completion()
    assert [text for text in texts if text] == ["Hello ", "there, ", "wörld ☂."]
    assert streamed.choices[0].message.content == whole.choices[0].message.content == "Hello there, wörld ☂."
    assert streamed.choices[0].finish_reason == whole.choices[0].finish_reason == "stop"


@covers("error")
def test_a_failure_is_an_exception_in_mid_stream_and_before_it(gpt: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="lost the thread"):
        gpt.chat.completions.create(**asking("BREAK"))
    told = []
    with pytest.raises(openai.APIError, match="lost the thread") as failed:
        told += [
            chunk.choices[0].delta.content
            for chunk in gpt.chat.completions.create(**asking("BREAK"), stream=True)
        ]
    assert failed.value.code == "engine_failed"


@covers("keepalive")
def test_silence_is_filled_and_leaves_no_trace(gpt: openai.OpenAI, server: Server) -> None:
    with gpt.chat.completions.stream(**asking("SILENCE SAY")) as stream:
        alive = 0
        for event in stream:
            alive += event.type == "chunk" and event.chunk.choices[0].delta.content is None
            if alive == 3:
                server.end_silence()
                alive += 1
        assert alive > 3
        assert stream.get_final_completion().choices[0].message.content == "Hello there, wörld ☂."


@covers("cancel")
def test_leaving_ends_the_request(gpt: openai.OpenAI, server: Server) -> None:
    with gpt.chat.completions.create(**asking("ENDLESS"), stream=True) as stream:
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break
    server.wait_settled()
