"""What nearly everybody who measures asks: a prompt that was never asked before, and what became of it."""

import trio

from tools.clients.framing import request_bytes
from tools.clients.http1 import chat, chat_bytes
from tools.clients.prompts import PromptSource
from tools.clients.sse import Answer
from tools.clients.target import Chat, Target


async def ask(target: Target, prompt: list[dict[str, str]], broken: list[str]) -> Answer:
    """One streamed token of an answer; says in `broken` if it was not whole, or had no usage."""
    answer = await chat(target, Chat(prompt, 1, temperature=0.0, stream=True))
    if not answer.is_whole or answer.usage is None:
        broken.append(answer.fate)
    return answer


class DeltaGate:
    """Opens when each of `clients` streams has had `deltas` deltas with text. Give it to `chat` as `watch`.

    It also opens when one of them is over before that, which `over` tells it: nobody waits in vain.
    """

    def __init__(self, clients: int, deltas: int) -> None:
        self.opened = trio.Event()
        self._clients = clients
        self._deltas = deltas
        self._arrived: set[int] = set()

    def __call__(self, answer: Answer) -> None:
        if len(answer.content_s) >= self._deltas and not self.opened.is_set():
            self._arrived.add(id(answer))  # each lives as long as its client, so no id comes twice
            if len(self._arrived) == self._clients:
                self.opened.set()

    def over(self) -> None:
        """One of them is over."""
        self.opened.set()


class Asker:
    """Makes requests that were never made before in this run, ready for the wire."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._prompts = PromptSource()

    def stream(self, output_tokens: int, *, words: int = 0) -> bytes:
        """A request for a stream of `output_tokens`; its prompt has `words` more words than 25."""
        [prompt] = self._prompts.take(1, words=words)
        return chat_bytes(self._target, Chat(prompt, output_tokens, temperature=0.0, stream=True))

    def watch(self, path: str = "/status/events") -> bytes:
        """A request for the status stream."""
        return request_bytes("GET", path, self._target.headers)
