"""Clients in line: keepalives tell them their place, in fields that no vendor's API has, and they bear it."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import anthropic
import openai
import pytest
from tests.sdk.npm_packages import FOLDER, needs_npm
from tests.sdk.server import KEY, SLOTS, Server

TEXT = "Hello there, wörld ☂."
LIMIT_S = 60.0
NODES = ("anthropic messages", "vercel messages", "openai responses", "vercel responses")


@pytest.fixture
def full(gpt: openai.OpenAI, server: Server) -> Iterator[Server]:
    """A server whose slots are all taken, until its silence ends."""
    with ExitStack() as stack:
        for _ in range(SLOTS):
            server.fell_silent.clear()
            stack.enter_context(gpt.responses.create(model="m", input="SILENCE", stream=True))
            assert server.fell_silent.wait(LIMIT_S)
        yield server
        server.end_silence()


def places(gpt: openai.OpenAI) -> Iterator[int]:
    """Its place in line, as a request on Responses is told again and again."""
    with gpt.responses.create(model="m", input="SAY", stream=True) as stream:
        for event in stream:
            if event.type == "response.in_progress" and (
                told := (event.model_extra or {}).get("queue_progress")
            ):
                assert told["eta_s"] is None or told["eta_s"] >= 0
                yield told["position"]


def test_openais_package_in_line_reads_its_place(gpt: openai.OpenAI, full: Server) -> None:
    with gpt.responses.stream(model="m", input="SAY") as stream:
        told = 0
        for event in stream:
            if event.type == "response.in_progress" and "queue_progress" in (event.model_extra or {}):
                told += 1
                if told == 3:
                    full.end_silence()
        assert told >= 3
        assert stream.get_final_response().output_text == TEXT


def test_anthropics_package_in_line_overlooks_its_place(claude: anthropic.Anthropic, full: Server) -> None:
    with claude.messages.stream(
        model="m", max_tokens=99, messages=[{"role": "user", "content": "SAY"}]
    ) as stream:
        alive = 0
        for event in stream:
            alive += event.type == "message_delta" and event.delta.stop_reason is None
            if alive == 3:
                full.end_silence()
        assert alive >= 3
        assert stream.get_final_text() == TEXT


@needs_npm
@pytest.mark.npm
def test_clients_from_npm_in_line_overlook_their_place(gpt: openai.OpenAI, full: Server) -> None:
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(
                subprocess.Popen(
                    ["node", "clients.mjs", client, full.base, KEY, "SAY"],
                    cwd=FOLDER,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for client in NODES
        ]
        while next(places(gpt)) < len(NODES):
            pass  # they are still coming; each look is a request that waits for a keepalive
        behind = places(gpt)
        assert [next(behind) for _ in range(4)] == [len(NODES)] * 4, "they were told as often"
        full.end_silence()
        told = [node.communicate(timeout=LIMIT_S)[0] for node in nodes]
        behind.close()  # type: ignore[attr-defined]  # a generator's
    assert [node.returncode for node in nodes] == [0] * len(NODES)
    assert all(f'"text":"{TEXT}"' in one for one in told), told
