"""Clients that stream, and what the tests of /status look for."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import openai
from playwright.sync_api import Browser, Page
from tests.browser.conftest import Server

STORY = "Write a long story about a llama that lives in a corral."


class Talk(threading.Thread):
    """A client of the SDK that streams one answer; `text` is what it got, `error` how it ended."""

    def __init__(
        self, server: Server, prompt: str, max_tokens: int | None, *, model: str = "default"
    ) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._prompt = prompt
        self._max_tokens = max_tokens
        self._model = model
        self.text = ""
        self.id = ""
        self.error: openai.APIError | None = None
        self.start()

    def run(self) -> None:
        with openai.OpenAI(base_url=f"{self._server.url}/v1", api_key="none", max_retries=0) as client:
            try:
                with client.chat.completions.create(
                    model=self._model,
                    messages=[{"role": "user", "content": self._prompt}],
                    max_tokens=self._max_tokens,
                    seed=7,
                    stream=True,
                ) as stream:
                    for chunk in stream:
                        self.id = chunk.id
                        self.text += chunk.choices[0].delta.content or ""
            except openai.APIError as error:
                self.error = error


@contextmanager
def tab(browser: Browser, server: Server) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.goto(f"{server.url}/status")
    yield page
    context.close()


def lane(asked: Talk | str) -> str:
    """A selector for the lane that shows the request of a talk, or of an answer's id."""
    short = (asked if isinstance(asked, str) else asked.id).removeprefix("chatcmpl-")[:8]
    return f".lane:has(.lane-id:text-is('{short}'))"


def wait_for_text(server: Server, talk: Talk, chars: int) -> None:
    server.wait(lambda _: len(talk.text) >= chars or not talk.is_alive())
