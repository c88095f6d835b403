from collections.abc import Iterator

import anthropic
import openai
import pytest
from tests.sdk.server import KEY, Server, running


@pytest.fixture(scope="session")
def everyones() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
def server(everyones: Server) -> Iterator[Server]:
    """A server on which nothing runs, before and after."""
    everyones.teller.asked.clear()
    yield everyones
    everyones.end_silence()
    everyones.wait_settled()


@pytest.fixture
def claude(server: Server) -> Iterator[anthropic.Anthropic]:
    """Anthropic's own client, without its retries: a test sees the first answer."""
    with anthropic.Anthropic(base_url=server.base, api_key=KEY, max_retries=0, timeout=30.0) as client:
        yield client


@pytest.fixture
def gpt(server: Server) -> Iterator[openai.OpenAI]:
    """OpenAI's."""
    with openai.OpenAI(base_url=f"{server.base}/v1", api_key=KEY, max_retries=0, timeout=30.0) as client:
        yield client
