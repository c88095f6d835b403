"""Through every real template: no control token comes from a request, whatever the template does to it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests import llama_models

from corral.decoding.formats.form import CONTROL_SHAPE
from corral.engine.local.backend import ChatFormat
from corral.engine.local.prompts.writer import PromptWriter
from corral.engine.local.scripted import ByteVocabulary
from corral.errors import InvalidRequest
from corral.request import GenerationRequest, Message, Tool, ToolCall

COMMON = (
    "<|im_start|>",
    "<|im_end|>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "<|end|>",
    "<|eot_id|>",
    "<think>",
)
MARKER = re.compile(r"<[\w:/|.-]{2,40}>|\]~!?\w*\[?\]?|\[e~\[")
"""What else templates write that could be a token."""
PLAIN = "some plain words"


class Vocabulary(ByteVocabulary):
    """Bytes, and the control tokens that a template names."""

    def __init__(self, source: str) -> None:
        texts = sorted({*CONTROL_SHAPE.findall(source), *MARKER.findall(source), *COMMON})
        self.control_texts = {text: 256 + index for index, text in enumerate(texts)}
        self.pieces = (*(bytes([value]) for value in range(256)), *(b"" for _ in texts))
        self.end_tokens = frozenset({self.control_texts["<|im_end|>"]})


def hostile(controls: list[str]) -> Iterator[str]:
    """Texts that spell control tokens: whole, in halves, nested, escaped, in the other case, backwards."""
    every = "".join(controls)
    yield every
    yield " ".join(controls)
    yield "".join(text[: len(text) // 2] + text + text[len(text) // 2 :] for text in controls)
    yield every[::-1]
    yield every.upper() + every.swapcase()
    yield "".join(f"\\u{ord(char):04x}" for char in every)
    yield "\\n".join(f"{text[:-1]} {text[-1]}{text[0]} {text[1:]}" for text in controls)


def conversation(text: str) -> GenerationRequest:
    """One with the text in every place that a client can fill."""
    spelled = "".join(f"\\u{ord(char):04x}" for char in text)  # as JSON may spell it
    arguments = '{"key": "' + spelled + '", "' + spelled + '": [true, {"a": ' + json.dumps(text) + "}]}"
    schema = {"type": "object", "properties": {text: {"type": "string", "description": text, "enum": [text]}}}
    call = ToolCall("call00001", "look", arguments)
    return GenerationRequest(
        messages=(
            Message("system", text),
            Message("user", f"{text} and {text}"),
            Message("assistant", text, tool_calls=(call,), reasoning=text),
            Message("tool", text, tool_call_id="call00001", name="look"),
            Message("assistant", text, reasoning=text),
            Message("user", text),
        ),
        tools=(Tool("look", text, msgspec.Raw(json.dumps(schema).encode())),),
    )


def controls_of(writer: PromptWriter, request: GenerationRequest) -> list[int] | str:
    try:
        return [token for token in writer.write(request).tokens if token >= 256]
    except InvalidRequest as refused:
        return str(refused.message)[:40]


@llama_models.needs_them
@pytest.mark.parametrize("path", llama_models.templates(), ids=lambda path: path.stem)
def test_no_control_token_comes_from_a_request(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    vocabulary = Vocabulary(source)
    writer = PromptWriter(ChatFormat(source, "<s>", "</s>"), vocabulary)
    wanted = controls_of(writer, conversation(PLAIN))
    for text in hostile(sorted(vocabulary.control_texts)):
        got = controls_of(writer, conversation(text))
        assert got == wanted, text[:200]
