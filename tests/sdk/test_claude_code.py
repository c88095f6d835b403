"""Claude Code against a server on a socket: a turn with a command that it runs, and how it tells errors."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.sdk.covers import covering
from tests.sdk.npm_packages import MODULES, needs_npm
from tests.sdk.server import KEY, Server, running
from tests.sdk.tales import COMMAND

pytestmark = needs_npm

LIMIT_S = 90.0
CTX_TOKENS = 100_000


def events_of(server: Server, home: Path, prompt: str, *flags: str) -> list[dict[str, Any]]:
    """What `claude -p` says that happened, in a folder of its own and with no settings but these."""
    work = home / "work"
    work.mkdir()
    done = subprocess.run(
        [
            str(MODULES / ".bin" / "claude"),
            "-p",
            "--output-format",
            "stream-json",
            "--verbose",
            *flags,
            "--",
            prompt,
        ],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "ANTHROPIC_BASE_URL": server.base,
            "ANTHROPIC_AUTH_TOKEN": KEY,
            "ANTHROPIC_MODEL": "tales",  # the thoughts of a model that calls itself otherwise are dropped
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_MAX_RETRIES": "0",
        },
        cwd=work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.stdout, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@covering("Claude Code", "Messages", "stream", "tools", "reasoning")
def test_it_thinks_runs_a_command_and_answers(tmp_path: Path) -> None:
    with running(ctx_tokens=CTX_TOKENS) as server:
        events = events_of(server, tmp_path, "THINK SLOW BASH", "--allowedTools", "Bash")
        assert events[-1]["type"] == "result", events
        assert (events[-1]["is_error"], events[-1]["result"]) == (False, "Hello there, wörld ☂.")
        said = [
            block for event in events if event["type"] == "assistant" for block in event["message"]["content"]
        ]
        assert [block["type"] for block in said] == ["thinking", "tool_use", "text"]
        assert said[1]["input"]["command"] == COMMAND
        assert (tmp_path / "work" / "said.txt").read_text() == "SAY\n"
        first, second = server.teller.asked  # no request was sent twice
        assert first.max_tokens == 32_000
        assert first.messages[0].role == "system"
        assert "x-anthropic-billing-header" not in first.messages[0].content
        assert second.messages[: len(first.messages)] == first.messages, "the prefix is the same"
        [called] = [message for message in second.messages if message.tool_calls]
        assert called.reasoning == "Let me see."
        assert second.messages[-1].content == "SAY"


@covering("Claude Code", "Messages", "error")
@pytest.mark.parametrize(("tale", "told"), [("BREAK", "lost the thread"), ("word " * 5000, "too long")])
def test_it_tells_what_went_wrong(tmp_path: Path, tale: str, told: str) -> None:
    with running() as server:
        last = events_of(server, tmp_path, tale)[-1]
        assert (last["type"], last["is_error"]) == ("result", True)
        assert told in last["result"]
