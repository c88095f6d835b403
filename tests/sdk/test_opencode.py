"""opencode against a server on a socket: a turn with a command that it runs, through a silence that is longer
than its patience."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.sdk.covers import covering
from tests.sdk.npm_packages import MODULES, needs_npm
from tests.sdk.server import KEY, Server, running
from tests.sdk.tales import COMMAND

pytestmark = needs_npm

PATIENCE_MS = 2000
SILENCE_S = 6.0
KEEPALIVE_S = 0.7
LIMIT_S = 90.0


def config(server: Server) -> dict[str, Any]:
    options = {"baseURL": f"{server.base}/v1", "apiKey": KEY, "chunkTimeout": PATIENCE_MS}
    corral = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "corral",
        "options": options,
        "models": {"local": {"name": "local"}},
    }
    return {"provider": {"corral": corral}, "model": "corral/local", "autoupdate": False, "share": "disabled"}


def events_of(server: Server, home: Path, prompt: str) -> list[dict[str, Any]]:
    """What `opencode run` says that happened, in a folder of its own and with no settings but these."""
    work = home / "work"
    work.mkdir()
    (work / "opencode.json").write_text(json.dumps(config(server)))
    done = subprocess.run(
        [str(MODULES / ".bin" / "opencode"), "run", "--format", "json", prompt],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "OPENCODE_DISABLE_MODELS_FETCH": "1"},
        cwd=work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.stdout, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@covering("opencode", "Chat", "stream", "tools", "keepalive")
def test_it_waits_runs_a_command_and_answers(tmp_path: Path) -> None:
    with running(keepalive_s=KEEPALIVE_S, ctx_tokens=100_000) as server:
        server.teller.slow_s = SILENCE_S
        events = events_of(server, tmp_path, "THINK SLOW SHELL")
        [used] = [event["part"]["state"] for event in events if event["type"] == "tool_use"]
        assert (used["status"], used["input"]["command"]) == ("completed", COMMAND)
        assert (tmp_path / "work" / "said.txt").read_text() == "SAY\n"
        assert [event["part"]["text"] for event in events if event["type"] == "text"] == [
            "Hello there, wörld ☂."
        ]
        last = events[-1]["part"]
        assert (events[-1]["type"], last["reason"]) == ("step_finish", "stop")
        turns = [request for request in server.teller.asked if request.tools]  # the other one is for a title
        assert len(turns) == 2, "no request was sent twice"
        assert [message.role for message in turns[-1].messages][-2:] == ["assistant", "tool"]
