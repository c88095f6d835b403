"""Codex against a server on a socket: a turn with a command that it runs, through a silence that is longer
than its patience."""

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

PATIENCE_MS = 5000
SILENCE_S = 14.0
LIMIT_S = 90.0
CONFIG = """
model = "local"
model_provider = "corral"
[model_providers.corral]
name = "corral"
base_url = "{base}/v1"
wire_api = "responses"
env_key = "CORRAL_KEY"
stream_idle_timeout_ms = {patience_ms}
stream_max_retries = 0
request_max_retries = 0
"""


def events_of(server: Server, home: Path, prompt: str) -> list[dict[str, Any]]:
    """What `codex exec` says that happened, in a folder of its own."""
    (home / "config.toml").write_text(CONFIG.format(base=server.base, patience_ms=PATIENCE_MS))
    work = home / "work"
    work.mkdir()
    codex = str(MODULES / ".bin" / "codex")
    alone = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "-C", str(work)]
    done = subprocess.run(
        [codex, "exec", "--json", *alone, prompt],
        env={**os.environ, "CODEX_HOME": str(home), "CORRAL_KEY": KEY},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.stdout, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def items(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [
        event["item"]
        for event in events
        if event["type"] == "item.completed" and event["item"]["type"] == kind
    ]


@covering("Codex", "Responses", "stream", "tools", "reasoning", "keepalive")
def test_it_thinks_waits_runs_a_command_and_answers(tmp_path: Path) -> None:
    with running(keepalive_s=3.0) as server:
        server.teller.slow_s = SILENCE_S
        events = events_of(server, tmp_path, "THINK SLOW RUN")
        assert events[-1]["type"] == "turn.completed", events
        assert [thought["text"] for thought in items(events, "reasoning")] == ["Let me see."]
        [command] = items(events, "command_execution")
        assert COMMAND in command["command"]
        assert command["exit_code"] == 0
        assert (tmp_path / "work" / "said.txt").read_text() == "SAY\n"
        assert [message["text"] for message in items(events, "agent_message")] == ["Hello there, wörld ☂."]
        usage = events[-1]["usage"]
        assert usage["output_tokens"] > usage["reasoning_output_tokens"] == 2
        first, second = server.teller.asked  # no request was sent twice
        assert first.messages[-1].content == "THINK SLOW RUN"
        assert "exec_command" in {tool.name for tool in first.tools}
        assert second.messages[-2].reasoning == "Let me see."
        assert "SAY" in second.messages[-1].content


@covering("Codex", "Responses", "error")
@pytest.mark.parametrize(
    ("tale", "told"), [("BREAK", "lost the thread"), ("SAY LENGTH", "max_output_tokens")]
)
def test_it_tells_what_went_wrong(tmp_path: Path, tale: str, told: str) -> None:
    with running() as server:
        events = events_of(server, tmp_path, tale)
        assert events[-1]["type"] == "turn.failed", events
        assert told in events[-1]["error"]["message"]
