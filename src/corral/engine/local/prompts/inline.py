"""Prompts written in threads of this process, for a model that can do no harm: one made for tests."""

from array import array
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import trio

from corral.decoding.formats.learn import Learned
from corral.engine.local.prompts.contract import Prompt
from corral.engine.local.prompts.writer import PromptWriter
from corral.errors import prompt_too_long
from corral.request import GenerationRequest

T = TypeVar("T")

THREADS = 2


class InlinePrompts:
    """A PromptWriter in a few threads; see contract.Prompts. First come, first served."""

    def __init__(self, writer: PromptWriter) -> None:
        self._writer = writer
        self._threads = trio.CapacityLimiter(THREADS)

    async def ready(self) -> Learned:
        """There is nothing to wait for."""
        await trio.lowlevel.checkpoint()
        return self._writer.learned

    async def run(self) -> None:
        """Nothing is owned here."""
        await trio.sleep_forever()

    async def prompt(self, request: GenerationRequest, *, client: str, limit_tokens: int) -> Prompt:
        """The prompt of a request. A thread whose client has gone finishes its pure work unheard."""
        prompt = await self._run(partial(self._writer.write, request))
        if len(prompt.tokens) > limit_tokens:
            raise prompt_too_long(len(prompt.tokens), limit_tokens, param=request.prompt_param)
        return prompt

    async def text(self, request: GenerationRequest, *, client: str) -> str:
        """As `prompt`, but the text."""
        return await self._run(partial(self._writer.text, request))

    async def tokens(
        self, text: str, *, client: str, adds_special: bool, parses_control: bool
    ) -> "array[int]":
        """As `prompt`, of a text."""
        return await self._run(
            partial(self._writer.tokens, text, adds_special=adds_special, parses_control=parses_control)
        )

    async def inputs(self, texts: Sequence[str], *, client: str, limit_tokens: int) -> "list[array[int]]":
        """As `prompt`, of texts to be embedded."""
        return await self._run(partial(self._writer.inputs, texts, limit_tokens))

    def close(self) -> None:
        """Nothing is left open."""

    async def _run(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._threads)
