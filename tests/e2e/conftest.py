"""Fixtures of the real thing: `corral serve` with the default model, in its own process."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import openai
import pytest
from tests.e2e.processes import Server, corral


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts servers with flags and waits for them; they end with the test, and must end well."""
    with ExitStack() as running:

        def start(*flags: str) -> Server:
            server = corral(tmp_path_factory.mktemp("server"), *flags)
            running.callback(server.stop)
            server.until_healthy()
            return server

        yield start


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with eight slots, for all tests."""
    server = corral(tmp_path_factory.mktemp("wide"))
    with ExitStack() as running:
        running.callback(server.stop)
        server.until_healthy()
        yield server


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one slot and one place in the queue, for all tests: who is not out, is in the way."""
    server = corral(
        tmp_path_factory.mktemp("narrow"),
        "--slots",
        "1",
        "--queue-requests",
        "1",
        "--stream-keepalive-s",
        "0.2",
    )
    with ExitStack() as running:
        running.callback(server.stop)
        server.until_healthy()
        yield server


@pytest.fixture
def sdk() -> Iterator[Callable[..., openai.OpenAI]]:
    """Makes OpenAI's own clients, without their retries: a test sees the first answer."""
    with ExitStack() as clients:

        def make(base_url: str, **options: Any) -> openai.OpenAI:
            settings: dict[str, Any] = {"api_key": "none", "max_retries": 0, "timeout": 30.0} | options
            return clients.enter_context(openai.OpenAI(base_url=base_url, **settings))

        yield make
