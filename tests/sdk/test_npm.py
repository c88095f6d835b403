"""Clients from npm against a server on a socket: OpenAI's and Anthropic's packages, and Vercel's AI SDK."""

import json
import subprocess
from typing import Any

import pytest
from tests.sdk.covers import covering
from tests.sdk.npm_packages import FOLDER, needs_npm
from tests.sdk.server import KEY, Server

pytestmark = [needs_npm, pytest.mark.npm]

LIMIT_S = 60.0
TEXT = "Hello there, wörld ☂."
ENDS = {  # when it is done, when it calls, when it was cut
    "openai chat": ("stop", "tool_calls", "length"),
    "openai responses": ("completed", "completed", "incomplete"),
    "anthropic messages": ("end_turn", "tool_use", "max_tokens"),
    "vercel chat": ("stop", "tool-calls", "length"),
    "vercel responses": ("stop", "tool-calls", "length"),
    "vercel messages": ("stop", "tool-calls", "length"),
}


def ask(server: Server, client: str, tale: str, *more: str) -> dict[str, Any]:
    """What a client made of an answer."""
    command = ["node", "clients.mjs", client, server.base, KEY, tale, *more]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@covering("openai (npm)", "Chat", "stream", "keepalive")
@covering("openai (npm)", "Responses", "stream", "keepalive")
@covering("anthropic (npm)", "Messages", "stream", "keepalive")
@covering("Vercel AI SDK, openai-compatible", "Chat", "stream", "keepalive")
@covering("Vercel AI SDK, openai", "Responses", "stream", "keepalive")
@covering("Vercel AI SDK, anthropic", "Messages", "stream", "keepalive")
@pytest.mark.parametrize("client", ENDS)
def test_it_reads_a_stream_through_silence(server: Server, client: str) -> None:
    told = ask(server, client, "SLOW SAY SLOW")
    assert (told["text"], told["end"], told["error"]) == (TEXT, ENDS[client][0], None)
    assert ask(server, client, "SAY LENGTH")["end"] == ENDS[client][2]


@covering("openai (npm)", "Chat", "tools", "reasoning")
@covering("Vercel AI SDK, openai-compatible", "Chat", "tools", "reasoning")
@covering("openai (npm)", "Responses", "tools", "reasoning")
@covering("anthropic (npm)", "Messages", "tools", "reasoning")
@covering("Vercel AI SDK, openai", "Responses", "tools", "reasoning")
@covering("Vercel AI SDK, anthropic", "Messages", "tools", "reasoning")
@pytest.mark.parametrize("client", ENDS)
def test_it_reads_thoughts_and_calls(server: Server, client: str) -> None:
    told = ask(server, client, "THINK SLOW CALL")
    assert told["calls"] == [["get_weather", {"city": "Oslo", "days": 3}]]
    assert (told["reasoning"], told["end"], told["error"]) == ("Let me see.", ENDS[client][1], None)


@covering("openai (npm)", "Chat", "error")
@covering("openai (npm)", "Responses", "error")
@covering("anthropic (npm)", "Messages", "error")
@covering("Vercel AI SDK, openai-compatible", "Chat", "error")
@covering("Vercel AI SDK, openai", "Responses", "error")
@covering("Vercel AI SDK, anthropic", "Messages", "error")
@pytest.mark.parametrize("client", ENDS)
def test_it_tells_a_failure_from_an_end(server: Server, client: str) -> None:
    told = ask(server, client, "BREAK")
    assert "the storyteller lost the thread" in told["error"]
    assert (told["text"], told["end"]) == ("well ", None)


@covering("openai (npm)", "Chat", "cancel")
@covering("openai (npm)", "Responses", "cancel")
@covering("anthropic (npm)", "Messages", "cancel")
@covering("Vercel AI SDK, openai-compatible", "Chat", "cancel")
@covering("Vercel AI SDK, openai", "Responses", "cancel")
@covering("Vercel AI SDK, anthropic", "Messages", "cancel")
@pytest.mark.parametrize("client", ENDS)
def test_by_leaving_it_ends_its_request(server: Server, client: str) -> None:
    assert ask(server, client, "ENDLESS", "leave")["text"].startswith("and so on ")
    server.wait_settled()
