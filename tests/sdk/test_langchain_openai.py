"""LangChain's package for OpenAI against a server on a socket, through Chat and Responses."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr
from tests.sdk.covers import covering
from tests.sdk.server import KEY, Server

TEXT = "Hello there, wörld ☂."
APIS = ["Chat", "Responses"]
ASKING: dict[str, dict[str, Any]] = {"Chat": {}, "Responses": {"reasoning": {"summary": "auto"}}}
"""For thoughts: of a stream on Responses it reads their summary alone. On Chat it has no eyes for any."""

chat = partial(covering, "langchain-openai", "Chat")
responses = partial(covering, "langchain-openai", "Responses")


class GetWeather(BaseModel):
    """Tells the weather."""

    city: str
    days: int


def model(server: Server, api: str, **fields: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="local",
        base_url=f"{server.base}/v1",
        api_key=SecretStr(KEY),
        max_retries=0,
        timeout=30.0,
        use_responses_api=api == "Responses",
        **fields,
    )


def folded(messages: Iterable[AIMessage]) -> AIMessageChunk:
    first, *others = [message for message in messages if isinstance(message, AIMessageChunk)]
    return add_ai_message_chunks(first, *others)


@chat("stream", "keepalive")
@responses("stream", "keepalive")
@pytest.mark.parametrize("api", APIS)
def test_a_stream_and_an_answer_are_the_same_through_silence(server: Server, api: str) -> None:
    llm = model(server, api, stream_usage=True)
    whole = llm.invoke("SAY")
    chunks = list(llm.stream("SLOW SAY SLOW"))
    assert [chunk.text for chunk in chunks if chunk.text] == ["Hello ", "there, ", "wörld ☂."]
    streamed = folded(chunks)
    assert streamed.text == whole.text == TEXT
    for answer in (streamed, whole):
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["output_tokens"] == 3


@chat("tools")
@responses("tools", "reasoning")
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("streams", [False, True])
def test_a_tool_loop_goes_round(server: Server, api: str, streams: bool) -> None:
    llm = model(server, api, **ASKING[api]).bind_tools(
        [GetWeather.model_json_schema() | {"title": "get_weather"}]
    )
    asked: list[BaseMessage] = [HumanMessage("THINK CALL")]
    turn = folded(llm.stream(asked)) if streams else llm.invoke(asked)
    assert isinstance(turn, AIMessage)
    [call] = turn.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Oslo", "days": 3})
    answer = llm.invoke([*asked, turn, ToolMessage("SAY", tool_call_id=call["id"] or "")])
    assert answer.text == TEXT
    _, said, told = server.teller.asked[-1].messages
    assert [(one.name, one.id) for one in said.tool_calls] == [("get_weather", call["id"])]
    assert (told.content, told.tool_call_id) == ("SAY", call["id"])
    assert said.reasoning == ("Let me see." if api == "Responses" else "")


@pytest.mark.parametrize("api", APIS)
def test_an_answer_that_was_to_be_of_a_kind_is_of_it(server: Server, api: str) -> None:
    llm = model(server, api).with_structured_output(GetWeather, method="json_schema")
    assert llm.invoke("JSON") == GetWeather(city="Oslo", days=3)
    grammar = server.teller.asked[-1].grammar
    assert grammar is not None
    assert (grammar.kind, "city" in grammar.source) == ("json_schema", True)


@chat("error")
@responses("error")
@pytest.mark.parametrize("api", APIS)
def test_a_failure_is_an_exception_in_mid_stream_and_before_it(server: Server, api: str) -> None:
    llm = model(server, api)
    with pytest.raises(openai.InternalServerError, match="lost the thread"):
        llm.invoke("BREAK")
    told = []
    with pytest.raises((openai.APIError, ValueError), match="lost the thread"):  # the latter on Responses
        told += [chunk.text for chunk in llm.stream("BREAK")]
    with pytest.raises(openai.BadRequestError) as long:
        llm.invoke("word " * 5000)
    assert long.value.code == "context_length_exceeded"


@chat("cancel")
@responses("cancel")
@pytest.mark.parametrize("api", APIS)
def test_leaving_ends_the_request(server: Server, api: str) -> None:
    chunks = model(server, api).stream("ENDLESS")
    for chunk in chunks:
        if chunk.text:
            break
    chunks.close()  # type: ignore[attr-defined]  # a generator, which it says nowhere
    server.wait_settled()
