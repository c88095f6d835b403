"""OpenAI's Agents SDK against a server on a socket: agents that call tools, through Responses and Chat."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import openai
import pytest
from agents import (
    Agent,
    Model,
    ModelBehaviorError,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    RunResult,
    RunResultStreaming,
    function_tool,
)
from pydantic import BaseModel
from tests.sdk.covers import covering
from tests.sdk.server import KEY, Server

TEXT = "Hello there, wörld ☂."
MODELS: dict[str, Callable[[str, openai.AsyncOpenAI], Model]] = {
    "Responses": OpenAIResponsesModel,
    "Chat": OpenAIChatCompletionsModel,
}
QUIET = RunConfig(tracing_disabled=True)  # else every run is reported to OpenAI

responses = partial(covering, "openai-agents", "Responses")
chat = partial(covering, "openai-agents", "Chat")


class Weather(BaseModel):
    city: str
    days: int


Use = Callable[[Agent[None]], Awaitable[Any]]


def used(server: Server, api: str, use: Use, **fields: Any) -> Any:
    """What `use` makes of an agent on this API, in an event loop of its own."""

    async def main() -> Any:
        base = f"{server.base}/v1"
        async with openai.AsyncOpenAI(base_url=base, api_key=KEY, max_retries=0, timeout=30.0) as client:
            agent = Agent[None](
                "tester",
                instructions="Be brief.",
                model=MODELS[api]("local", client),
                model_settings=ModelSettings(include_usage=True),
                **fields,
            )
            return await use(agent)

    return asyncio.run(main())


def run(server: Server, api: str, tale: str, **fields: Any) -> RunResult:
    result: RunResult = used(server, api, lambda agent: Runner.run(agent, tale, run_config=QUIET), **fields)
    return result


async def streamed(agent: Agent[None], tale: str) -> tuple[list[str], RunResultStreaming]:
    """The texts as they came, and what became of it."""
    result = Runner.run_streamed(agent, tale, run_config=QUIET)
    return [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ], result


@responses("stream", "keepalive")
@chat("stream", "keepalive")
@pytest.mark.parametrize("api", MODELS)
def test_text_comes_as_it_is_said_and_through_silence(server: Server, api: str) -> None:
    texts, result = used(server, api, lambda agent: streamed(agent, "SLOW SAY SLOW"))
    assert [text for text in texts if text] == ["Hello ", "there, ", "wörld ☂."]
    assert result.final_output == TEXT


@responses("tools", "reasoning")
@chat("tools", "reasoning")
@pytest.mark.parametrize("api", MODELS)
@pytest.mark.parametrize("streams", [False, True])
def test_an_agent_thinks_calls_its_tool_and_answers(server: Server, api: str, streams: bool) -> None:
    asked: list[Weather] = []

    @function_tool
    def get_weather(city: str, days: int) -> str:
        """Tells the model what to say."""
        asked.append(Weather(city=city, days=days))
        return "SAY"

    if streams:
        _, result = used(server, api, lambda agent: streamed(agent, "THINK CALL"), tools=[get_weather])
    else:
        result = run(server, api, "THINK CALL", tools=[get_weather])
    assert asked == [Weather(city="Oslo", days=3)]
    assert result.final_output == TEXT
    kinds = [item.type for item in result.new_items]
    assert kinds == ["reasoning_item", "tool_call_item", "tool_call_output_item", "message_output_item"]
    *_, turn, told = server.teller.asked[-1].messages
    # on Chat it sends thoughts back to DeepSeek's models alone
    assert (turn.reasoning, told.content) == ("Let me see." if api == "Responses" else "", "SAY")
    usage = result.context_wrapper.usage
    assert (usage.requests, usage.output_tokens > 3) == (2, True)


@pytest.mark.parametrize("api", MODELS)
def test_an_answer_that_was_to_be_of_a_kind_is_of_it(server: Server, api: str) -> None:
    result = run(server, api, "JSON", output_type=Weather)
    assert result.final_output == Weather(city="Oslo", days=3)
    grammar = server.teller.asked[-1].grammar
    assert grammar is not None
    assert (grammar.kind, "city" in grammar.source) == ("json_schema", True)


@responses("error")
@chat("error")
@pytest.mark.parametrize("api", MODELS)
def test_a_failure_is_an_exception_in_mid_stream_and_before_it(server: Server, api: str) -> None:
    with pytest.raises(openai.InternalServerError, match="lost the thread"):
        run(server, api, "BREAK")
    with pytest.raises(
        (openai.APIError, ModelBehaviorError), match="lost the thread"
    ):  # the latter on Responses
        used(server, api, lambda agent: streamed(agent, "BREAK"))
    with pytest.raises(openai.BadRequestError) as long:
        run(server, api, "word " * 5000)
    assert long.value.code == "context_length_exceeded"


@responses("cancel")
@chat("cancel")
@pytest.mark.parametrize("api", MODELS)
def test_leaving_ends_the_request(server: Server, api: str) -> None:
    async def leave(agent: Agent[None]) -> None:
        result = Runner.run_streamed(agent, "ENDLESS", run_config=QUIET)
        async for event in result.stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                result.cancel()

    used(server, api, leave)
    server.wait_settled()
