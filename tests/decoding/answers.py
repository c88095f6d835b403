"""Parsing an answer in pieces, and what a client would see of it."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import msgspec

from corral.decoding.blocks import BlockParser, Ending, Markers
from corral.decoding.formats.form import Format, split_controls
from corral.events import BlockClosed, BlockCollector, BlockDelta, BlockOpened
from corral.request import Tool

TOOLS = (
    Tool(
        "get_weather",
        "Weather forecast",
        msgspec.Raw(
            b'{"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"},'
            b' "metric": {"type": "boolean"}, "note": {"type": ["string", "null"]},'
            b' "where": {"type": "object"}}}'
        ),
    ),
    Tool("run_code", "Run Python", msgspec.Raw(b'{"properties": {"code": {"type": "string"}}}')),
    Tool("ping", "", msgspec.Raw(b"{}")),
)


@dataclass(frozen=True)
class Answer:
    """One answer, folded: `calls` are (name, arguments as they were streamed, whether it is whole)."""

    text: str
    reasoning: str
    calls: tuple[tuple[str, str, bool], ...]
    malformed: bool

    @property
    def arguments(self) -> list[Any]:
        return [json.loads(arguments) for _, arguments, is_whole in self.calls if is_whole]

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.calls]


def pieces(raw: str, form: Format, cut: Callable[[str], Iterable[str]]) -> Iterable[tuple[str, bool]]:
    """The answer as tokens: a spelled control token is one, and text is cut as `cut` says."""
    for piece in split_controls(raw, form.controls):
        if piece in form.controls:
            yield piece, True
        else:
            yield from ((part, False) for part in cut(piece))


def by(size: int) -> Callable[[str], Iterable[str]]:
    return lambda text: [text[at : at + size] for at in range(0, len(text), size)]


def parse(
    form: Format,
    raw: str,
    *,
    size: int = 1,
    cut: Callable[[str], Iterable[str]] | None = None,
    tools: Sequence[Tool] = TOOLS,
    prompt: str = "",
    ending: Ending = "stop",
) -> Answer:
    """Feed an answer and fold its events, which must be well formed."""
    ids = count()
    parser = BlockParser(Markers(form), tools, prompt=prompt, new_id=lambda: f"call_{next(ids)}")
    collector = BlockCollector()
    is_open = False
    fed = [parser.feed(text, is_control=control) for text, control in pieces(raw, form, cut or by(size))]
    for event in [*(event for events in fed for event in events), *parser.finish(ending)]:
        match event:
            case BlockOpened():
                assert not is_open
                is_open = True
            case BlockDelta(text=text):
                assert is_open
                assert text
            case BlockClosed():
                assert is_open
                is_open = False
        collector.feed(event)
    assert not is_open
    blocks = collector.blocks
    return Answer(
        text="".join(block.text for block in blocks if block.kind == "text"),
        reasoning="".join(block.text for block in blocks if block.kind == "reasoning"),
        calls=tuple(
            (block.name or "", block.text, block.is_whole) for block in blocks if block.kind == "tool"
        ),
        malformed=parser.malformed,
    )
