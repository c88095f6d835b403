"""Three coding agents against servers on sockets, all at once.

Each takes a turn with a command that it runs, through a silence that is longer than its patience. They tell
errors, and when one is killed its request ends. Claude Code's patience cannot be set below 300 s, so of its
silence this shows that what fills it does no harm.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from tests.sdk.agents import CTX_TOKENS, Agent, Process, claude_code, codex, events_of, opencode, started
from tests.sdk.covers import covering
from tests.sdk.npm_packages import needs_npm
from tests.sdk.server import KEEPALIVE_S, Server, running
from tests.sdk.tales import COMMAND

pytestmark = [needs_npm, pytest.mark.npm]

SILENCE_S = 14.0
WAITING_KEEPALIVE_S = 3.0  # the server's default
TEXT = "Hello there, wörld ☂."
TURNS: dict[Agent, str] = {
    codex: "THINK SLOW RUN",
    claude_code: "THINK SLOW BASH",
    opencode: "THINK SLOW SHELL",
}
SMALL_CTX_TOKENS = 4096

ERRORS: dict[Agent, Callable[[dict[str, Any]], str]] = {
    codex: lambda last: last["error"]["message"] if last["type"] == "turn.failed" else "",
    claude_code: lambda last: last["result"] if last["type"] == "result" and last["is_error"] else "",
}
"""What each says in its last event, if that is of an error."""


@dataclass(frozen=True)
class Turn:
    server: Server
    home: Path
    process: Process

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        return self.process.events()


@contextmanager
def turn(agent: Agent, home: Path, tale: str, *, ctx_tokens: int = CTX_TOKENS) -> Iterator[Turn]:
    """An agent's turn, which has begun, with a server of its own."""
    with running(keepalive_s=WAITING_KEEPALIVE_S, ctx_tokens=ctx_tokens) as server:
        server.teller.slow_s = SILENCE_S
        with started(agent, server, home, tale) as process:
            yield Turn(server, home, process)


@pytest.fixture(scope="module")
def turns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Turn]]:
    """The turns of all agents, side by side, and one for which there is no room: opencode takes its time to
    give that up."""
    with ExitStack() as stack:
        homes = tmp_path_factory.mktemp("agents")
        begun = {
            agent.__name__: stack.enter_context(turn(agent, homes / agent.__name__, tale))
            for agent, tale in TURNS.items()
        }
        cramped = turn(opencode, homes / "cramped", "SAY", ctx_tokens=SMALL_CTX_TOKENS)
        yield {**begun, "cramped": stack.enter_context(cramped)}


@covering("Codex", "Responses", "stream", "tools", "reasoning", "keepalive")
def test_codex_thinks_waits_runs_a_command_and_answers(turns: dict[str, Turn]) -> None:
    turn = turns["codex"]

    def items(kind: str) -> list[dict[str, Any]]:
        done = [event["item"] for event in turn.events if event["type"] == "item.completed"]
        return [item for item in done if item["type"] == kind]

    assert turn.events[-1]["type"] == "turn.completed", turn.events
    assert [thought["text"] for thought in items("reasoning")] == ["Let me see."]
    [command] = items("command_execution")
    assert COMMAND in command["command"]
    assert command["exit_code"] == 0
    assert (turn.home / "work" / "said.txt").read_text() == "SAY\n"
    assert [message["text"] for message in items("agent_message")] == [TEXT]
    usage = turn.events[-1]["usage"]
    assert usage["output_tokens"] > usage["reasoning_output_tokens"] == 2
    first, second = turn.server.teller.asked  # no request was sent twice
    assert first.messages[-1].content == TURNS[codex]
    assert "exec_command" in {tool.name for tool in first.tools}
    assert second.messages[-2].reasoning == "Let me see."
    assert "SAY" in second.messages[-1].content


@covering("Claude Code", "Messages", "stream", "tools", "reasoning", "keepalive")
def test_claude_code_thinks_waits_runs_a_command_and_answers(turns: dict[str, Turn]) -> None:
    turn = turns["claude_code"]
    last = turn.events[-1]
    assert last["type"] == "result", turn.events
    assert (last["is_error"], last["result"]) == (False, TEXT)
    said = [
        block
        for event in turn.events
        if event["type"] == "assistant"
        for block in event["message"]["content"]
    ]
    assert [block["type"] for block in said] == ["thinking", "tool_use", "text"]
    assert said[1]["input"]["command"] == COMMAND
    assert (turn.home / "work" / "said.txt").read_text() == "SAY\n"
    first, second = turn.server.teller.asked  # no request was sent twice
    assert first.max_tokens == 32_000
    assert first.messages[0].role == "system"
    assert "x-anthropic-billing-header" not in first.messages[0].content
    assert second.messages[: len(first.messages)] == first.messages, "the prefix is the same"
    [called] = [message for message in second.messages if message.tool_calls]
    assert called.reasoning == "Let me see."
    assert second.messages[-1].content == "SAY"


@covering("opencode", "Chat", "stream", "tools", "keepalive")
def test_opencode_waits_runs_a_command_and_answers(turns: dict[str, Turn]) -> None:
    turn = turns["opencode"]
    [used] = [event["part"]["state"] for event in turn.events if event["type"] == "tool_use"]
    assert (used["status"], used["input"]["command"]) == ("completed", COMMAND)
    assert (turn.home / "work" / "said.txt").read_text() == "SAY\n"
    assert [event["part"]["text"] for event in turn.events if event["type"] == "text"] == [TEXT]
    last = turn.events[-1]["part"]
    assert (turn.events[-1]["type"], last["reason"]) == ("step_finish", "stop")
    asked = [request for request in turn.server.teller.asked if request.tools]  # another is for a title
    assert len(asked) == 2, "no request was sent twice"
    assert [message.role for message in asked[-1].messages][-2:] == ["assistant", "tool"]


@covering("Codex", "Responses", "cancel")
@covering("Claude Code", "Messages", "cancel")
@covering("opencode", "Chat", "cancel")
def test_an_agent_that_is_killed_in_mid_stream_ends_its_request(tmp_path: Path) -> None:
    with ExitStack() as stack:
        at_work = []
        for agent in TURNS:
            server = stack.enter_context(running(keepalive_s=KEEPALIVE_S, ctx_tokens=CTX_TOKENS))
            process = stack.enter_context(started(agent, server, tmp_path / agent.__name__, "SAY SILENCE"))
            at_work.append((server, process))
        for server, process in at_work:
            assert server.fell_silent.wait(60.0), "it never asked"
            process.kill()
            server.wait_settled()
            outcomes = {outcome for _, outcome in server.app.service.ledger.totals.by_outcome}
            assert outcomes == {"disconnected"}


@covering("Codex", "Responses", "error")
@covering("Claude Code", "Messages", "error")
@pytest.mark.parametrize(
    ("agent", "tale", "told"),
    [
        (codex, "BREAK", "lost the thread"),
        (codex, "SAY LENGTH", "max_output_tokens"),
        (claude_code, "BREAK", "lost the thread"),
        (claude_code, "word " * 5000, "too long"),
    ],
)
def test_an_agent_tells_what_went_wrong(tmp_path: Path, agent: Agent, tale: str, told: str) -> None:
    with running(ctx_tokens=SMALL_CTX_TOKENS) as server:
        assert told in ERRORS[agent](events_of(agent, server, tmp_path, tale)[-1])


@covering("opencode", "Chat", "error")
def test_opencode_tells_that_there_is_no_room(turns: dict[str, Turn]) -> None:
    last = turns["cramped"].events[-1]
    assert (last["type"], last["error"]["name"]) == ("error", "ContextOverflowError")
