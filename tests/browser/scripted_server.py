"""A server whose model says what its prompt asks for, for what a real model cannot be made to say."""

import hashlib
import sys
import time
from collections.abc import Sequence

import trio

from corral import server
from corral.application import Application
from corral.engine.local.backend import Chunk
from corral.engine.local.prompts.contract import Prompt
from corral.engine.local.prompts.inline import InlinePrompts
from corral.engine.local.prompts.writer import PromptWriter
from corral.engine.local.scripted import ScriptedBackend, replying
from corral.request import GenerationRequest
from corral.settings import load

HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    " \u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \x1b[31mred\x1b[0m \x00 \ufffd &amp; 👩‍👩‍👧 "
)
REPEATING = "the cat sat on the mat; the cat sat on the hat; the end of the cat"
LONG_LINE = b"x" * 1_000_000
LONG_TOKEN = 1
"""A token whose text is the long line: one delta of a megabyte."""
THOUGHT = " ".join(hashlib.sha256(bytes([number])).hexdigest() for number in range(24))
"""Nothing in it repeats, so that it takes its time: no draft guesses any of it."""
CALLING = (
    "<think>\nI have to look it up.\n</think>\n\nOne moment.\n"
    '<tool_call>\n{"name": "weather", '
    '"arguments": {"city": "Oslo", "days": [1, 2], "note": "<b>x</b>"}}\n</tool_call>'
)
QUERYING = '<tool_call>\n{"name": "sql", "arguments": {"input": "SELECT \\"a\\"\\nFROM <b>"}}\n</tool_call>'
MARKDOWN = (
    "# A title\n\nSome **bold** text and `code`.\n\n- [x] done\n- [ ] to do\n\n"
    "\\(x^2\\)\n\n```\na < b\n```\n\n"
    "[link](javascript:alert(1)) <img src=x onerror=\"document.title='owned'\"> <b onclick=alert(1)>b</b>"
)


def reply(conversation: str) -> str | bytes:
    question = conversation.split("user\n")[-1]
    if "<tool_response>" in question:
        return "It is sunny in Oslo."
    if "CUSTOM" in question:
        return QUERYING
    if "CALL" in question:
        return CALLING
    if "THINK" in question:
        return f"<think>\n{THOUGHT}\n</think>\n\nIt is 42."
    if "LONG" in question:
        return bytes([LONG_TOKEN])
    if "HOSTILE" in question:
        return HOSTILE
    if "MARKDOWN" in question:
        return MARKDOWN
    if "REPEAT" in question:
        return REPEATING
    return "yes"


class SlowPrompts(InlinePrompts):
    """Takes long over some."""

    async def prompt(self, request: GenerationRequest, *, client: str, limit_tokens: int) -> Prompt:
        if "PREPARE" in request.messages[-1].content:
            await trio.sleep_forever()
        return await super().prompt(request, client=client, limit_tokens=limit_tokens)


def slowly(chunks: Sequence[Chunk]) -> None:
    del chunks
    time.sleep(0.001)


if __name__ == "__main__":
    backend = ScriptedBackend(replying(reply), ctx_tokens=2**18, on_step=slowly)
    backend.model.prompts = SlowPrompts(PromptWriter(backend.model.chat_format, backend.model.vocabulary))
    pieces = list(backend.model.vocabulary.pieces)
    pieces[LONG_TOKEN] = LONG_LINE
    backend.model.vocabulary.pieces = tuple(pieces)
    settings = load({"bind": sys.argv[1], "status_content": True, "max_output_tokens": 2000})
    sys.exit(server.main(settings, Application(settings, lambda: (backend, "scripted"))))
