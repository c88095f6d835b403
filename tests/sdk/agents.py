"""Coding agents from npm, as processes: each in a folder of its own, with no settings but these."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.sdk.npm_packages import MODULES
from tests.sdk.server import KEY, Server

LIMIT_S = 90.0
CTX_TOKENS = 100_000
CODEX_CONFIG = """
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


@dataclass(frozen=True, slots=True)
class Command:
    arguments: list[str]
    env: dict[str, str]


Agent = Callable[[Server, Path, str], Command]
"""What starts it in a home, which has a folder `work`, with a prompt."""


def codex(server: Server, home: Path, prompt: str, *, patience_ms: int = 5000) -> Command:
    """Codex; it gives up a stream that is silent for so long."""
    (home / "config.toml").write_text(CODEX_CONFIG.format(base=server.base, patience_ms=patience_ms))
    alone = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "-C", str(home / "work")]
    return Command(
        [_binary("codex"), "exec", "--json", *alone, prompt],
        {**os.environ, "CODEX_HOME": str(home), "CORRAL_KEY": KEY},
    )


def claude_code(server: Server, home: Path, prompt: str) -> Command:
    """Claude Code, which may run commands."""
    told = ["-p", "--output-format", "stream-json", "--verbose", "--allowedTools", "Bash"]
    return Command(
        [_binary("claude"), *told, "--", prompt],
        {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "ANTHROPIC_BASE_URL": server.base,
            "ANTHROPIC_AUTH_TOKEN": KEY,
            "ANTHROPIC_MODEL": "tales",  # the thoughts of a model that calls itself otherwise are dropped
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_MAX_RETRIES": "0",
        },
    )


def opencode(server: Server, home: Path, prompt: str, *, patience_ms: int = 5000) -> Command:
    """opencode; it gives up a stream that is silent for so long."""
    options = {"baseURL": f"{server.base}/v1", "apiKey": KEY, "chunkTimeout": patience_ms}
    corral = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "corral",
        "options": options,
        "models": {"local": {"name": "local"}},
    }
    config = {
        "provider": {"corral": corral},
        "model": "corral/local",
        "autoupdate": False,
        "share": "disabled",
    }
    (home / "work" / "opencode.json").write_text(json.dumps(config))
    return Command(
        [_binary("opencode"), "run", "--format", "json", prompt],
        {"PATH": os.environ["PATH"], "HOME": str(home), "OPENCODE_DISABLE_MODELS_FETCH": "1"},
    )


@contextmanager
def started(agent: Agent, server: Server, home: Path, prompt: str) -> Iterator["Process"]:
    """The agent at work; it and all that it started are killed at the end."""
    work = home / "work"
    work.mkdir(parents=True)
    command = agent(server, home, prompt)
    with (
        open(home / "out", "wb") as out,  # files, since nobody may be there to empty a pipe
        open(home / "err", "wb") as err,
        subprocess.Popen(
            command.arguments,
            env=command.env,
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        ) as process,
    ):
        running = Process(process, home)
        try:
            yield running
        finally:
            running.kill()


@dataclass(frozen=True, slots=True)
class Process:
    _process: subprocess.Popen[bytes]
    _home: Path

    def events(self) -> list[dict[str, Any]]:
        """What it says that happened, when it is done."""
        self._process.wait(timeout=LIMIT_S)
        out = (self._home / "out").read_text()
        assert out, (self._home / "err").read_text()
        return [json.loads(line) for line in out.splitlines()]

    def kill(self) -> None:
        """Kill it and all that it started. It may be done already."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def events_of(agent: Agent, server: Server, home: Path, prompt: str) -> list[dict[str, Any]]:
    with started(agent, server, home, prompt) as process:
        return process.events()


def _binary(name: str) -> str:
    return str(MODULES / ".bin" / name)
