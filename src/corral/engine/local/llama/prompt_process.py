"""The processes that write prompts for a GGUF file: each has the file's vocabulary and its chat template.

Run as a program it is one of them: `python -m corral.engine.local.llama.prompt_process FILE DEADLINE_S`.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

from corral.engine.local.llama.model import LlamaModel
from corral.engine.local.prompts.child import Child
from corral.engine.local.prompts.writer import PromptWriter
from corral.errors import InvalidRequest
from corral.request import GenerationRequest, Message


def command(path: Path, deadline_s: float) -> list[str]:
    """How to start one, of which no prompt takes longer than `deadline_s`."""
    return [sys.executable, "-P", "-m", __name__, os.fspath(path), str(deadline_s)]


def open_writer(path: Path) -> PromptWriter:
    """A writer over the vocabulary of a GGUF file. Blocks. Raises StartupError or TemplateFault."""
    model = LlamaModel(path, vocab_only=True)
    writer = PromptWriter(model.chat_format, model.vocabulary)
    # A template that does not end shows it here; and what is slow for the first time is done.
    with suppress(InvalidRequest):
        writer.write(GenerationRequest(messages=(Message("user", "Hello!"),)))
    return writer


def main() -> None:
    """Be one of the processes. Does not return."""
    path, deadline_s = sys.argv[1:]
    Child(lambda: open_writer(Path(path)), float(deadline_s)).run()


if __name__ == "__main__":
    main()
