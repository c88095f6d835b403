"""The app under servers that are not `corral serve`: Hypercorn's own command, and one that runs asyncio."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import openai
import pytest
from tests.e2e.processes import MODEL, QUESTION, environment, free_port, launch

pytestmark = pytest.mark.model

SRC = Path(__file__).parents[2] / "src"


@pytest.mark.parametrize(
    "command",
    [["app:app"], ["-k", "trio", "corral.asgi:app"]],
    ids=["asyncio worker", "trio worker"],
)
def test_hypercorn_serves_the_same(
    tmp_path: Path, sdk: Callable[..., openai.OpenAI], command: list[str]
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "hypercorn", "--bind", f"127.0.0.1:{port}", *command]
    settings = {"CORRAL_SLOTS": "1", "CORRAL_CTX_TOKENS": "4096", "CORRAL_STREAM_KEEPALIVE_S": "0.2"}
    server = launch(tmp_path, command, port=port, cwd=SRC, **settings)
    try:
        server.until_healthy()
        ask = sdk(server.api).chat.completions.create
        answer = ask(model=MODEL, messages=QUESTION, max_tokens=5, temperature=0)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 5
        with server.stream() as running, server.stream() as waiting:
            assert running.frame()
            assert '"delta":{}' in waiting.frame(), "a keepalive"
        assert server.answers_at_once()
        with server.stream(max_tokens=20) as stream:
            server.signal(signal.SIGTERM)
            assert stream.frames()[-1] == "[DONE]"
    finally:
        server.stop()


def test_another_server_is_told_what_to_type(tmp_path: Path) -> None:
    """uvicorn runs asyncio; corral then says at startup how it wants to be started, and it ends."""
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(SRC), "--port", str(free_port()), "app:app"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 3
    assert "ERROR:    corral runs on trio, and this server runs asyncio." in done.stderr
    assert "Start it with `corral serve`, or with `hypercorn corral.asgi:app`." in done.stderr
    assert "Traceback" not in done.stderr
