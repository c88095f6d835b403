"""A real server in a process of its own, and a real Chromium."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = which("chromium") or which("chromium-browser") or which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_S = 60.0
WITHIN_S = 30.0
"""For what comes by itself: machines are busy, and no test here is of how soon."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`corral serve`, or a program of this folder; `stop` and `start` again on the same port."""

    def __init__(self, log: Path, *arguments: str, program: str | None = None) -> None:
        bind = f"127.0.0.1:{free_port()}"
        self.port = int(bind.rpartition(":")[2])
        self.url = f"http://{bind}"
        if program is not None:
            self._command = [sys.executable, str(Path(__file__).with_name(program)), bind, *arguments]
        else:
            self._command = [sys.executable, "-m", "corral", "serve", "--bind", bind, *arguments]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._log.parent
            )
        deadline_s = time.monotonic() + START_S
        while not self._is_up():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline_s, "the server does not come up"
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: int) -> None:
        """What an operator's `kill` does."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait_stopped(self) -> None:
        """Until it has ended by itself."""
        assert self._process is not None
        self._process.wait(30)
        self._process = None

    def status(self) -> Any:
        with urllib.request.urlopen(f"{self.url}/status/json") as answer:
            return json.load(answer)

    def wait(self, condition: Callable[[Any], Any], within_s: float = 60.0) -> Any:
        """Until the snapshot is as wanted; returns what the condition found."""
        deadline_s = time.monotonic() + within_s
        while not (found := condition(self.status())):
            assert time.monotonic() < deadline_s, self.status()
            time.sleep(0.05)
        return found

    def _is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health"):
                return True
        except OSError:
            return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not for longer: while it is there, asyncio has a running loop in this thread."""
    expect.set_options(timeout=1000 * WITHIN_S)
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real model, with content shown."""
    log = tmp_path_factory.mktemp("server") / "log"
    server = Server(log, "--status-content", "--slots", "3", "--max-output-tokens", "600")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("scripted") / "log", program="scripted_server.py")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab in a profile of its own, which must load nothing from elsewhere and break no rule."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(1000 * WITHIN_S)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    yield page
    own = page.url.split("/")[2]
    context.close()
    foreign = [url for url in asked if not url.startswith((f"http://{own}/", "data:"))]
    assert foreign == [], "a request to somewhere else"
    # The browser says when a server is down or refuses; everything else on the console is a fault of ours.
    assert [text for text in complaints if not text.startswith("Failed to load resource")] == []
