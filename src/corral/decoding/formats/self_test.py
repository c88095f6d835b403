"""The proof of a learned format: what the template writes must read back as what it was given."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import msgspec

from corral.decoding.blocks import BlockParser
from corral.decoding.formats.encode import WrittenCall, encode_calls
from corral.decoding.formats.form import CallForm, Format, split_controls
from corral.decoding.formats.probe import (
    CONTENT,
    IDS,
    KEYS,
    NAMES,
    THOUGHT,
    TOOLS,
    TYPED_TOOLS,
    Prober,
    call,
    first_arguments,
)
from corral.decoding.json_scan import complete_json
from corral.decoding.markers import Markers
from corral.events import BlockCollector
from corral.request import Tool

_TRICKY = "say \"hi\" \\ {x: [1]}\nto <b>Ångström</b> & co. 'q'"
_TYPED: dict[str, Any] = {
    KEYS[0]: "007",
    "murdoc": -12,
    "nebrik": 2.5,
    "selvin": True,
    "hartig": {"quarnel": ["Xylotham", "z"], "ulmen": {"deep": "v"}},
    "wolmet": ["p", "q"],
}
_PIECE_CHARS = 7


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Which turns read back. `passed`: plain calls do; `failed` names those that do not.

    `is_exact`: what we write for a call is what the template writes.
    """

    passed: bool = False
    tried: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    is_exact: bool = False


def self_test(form: Format, prober: Prober, prompt: str = "", thinking_prompt: str = "") -> SelfTest:
    """Render calls, parse the text, compare. `prompt` is what stands before the assistant's own text.

    `thinking_prompt` is the same where the prompt writes the beginning of a thought.
    """
    can = prober.capabilities
    markers = Markers(form)
    one = [call(0, first_arguments(0))]
    two = [*one, call(1, first_arguments(1))]
    turns: dict[str, tuple[list[dict[str, Any]], str, str]] = {"one call": (one, "", "")}
    if can.parallel_calls:
        turns["two calls"] = (two, "", "")
    turns["no arguments"] = ([call(0, {})], "", "")
    turns["typed arguments"] = ([call(0, _TYPED)], "", "")
    turns["a difficult string"] = ([call(0, {KEYS[0]: _TRICKY})], "", "")
    if can.text_beside_calls:
        turns["text and a call"] = (one, CONTENT, "")
    if can.reasoning_field is not None:
        turns["a thought and a call"] = (one, "", THOUGHT)
    tried, failed = [], []
    for name, (calls, content, thought) in turns.items():
        tools = TYPED_TOOLS if calls[0]["function"]["arguments"] == _TYPED else TOOLS
        text = prober.calls(calls, content=content, thought=thought, tools=tools)
        text = text or prober.calls(calls, content=content, thought=thought, tools=tools, results=True)
        if text is None or NAMES[0] not in text or (thought and thought not in text):
            continue
        tried.append(name)
        begins_in_prompt = thought and form.thought is not None and form.thought.opener.strip() not in text
        start = thinking_prompt if begins_in_prompt else prompt
        if begins_in_prompt:
            text = text.removeprefix(prompt)
        if not _reads_back(markers, text, start, calls, content, thought):
            failed.append(name)
    passed = bool(tried) and "one call" not in failed and "two calls" not in failed
    return SelfTest(passed, tuple(tried), tuple(failed), is_exact(form.calls[0], prober))


def _reads_back(
    markers: Markers, text: str, prompt: str, calls: Sequence[dict[str, Any]], content: str, thought: str
) -> bool:
    """Whether the turn parses into these calls, content and thought; behind it other turns may follow."""
    text = text.removeprefix(prompt)
    ids = count()
    tools = [_tool(tool) for tool in TYPED_TOOLS]
    parser = BlockParser(markers, tools, prompt=prompt, new_id=lambda: str(next(ids)))
    collector = BlockCollector()
    events = []
    for piece in split_controls(text, markers.form.controls):
        if piece in markers.form.controls:
            events += parser.feed(piece, is_control=True)
        else:
            for at in range(0, len(piece), _PIECE_CHARS):
                events += parser.feed(piece[at : at + _PIECE_CHARS])
    events += parser.finish()
    for event in events:
        collector.feed(event)
    found = [
        (block.name, complete_json(block.text))
        for block in collector.blocks
        if block.kind == "tool" and block.is_whole
    ]
    wanted = [(one["function"]["name"], one["function"]["arguments"]) for one in calls]
    texts = "".join(block.text for block in collector.blocks if block.kind == "text")
    thoughts = "".join(block.text for block in collector.blocks if block.kind == "reasoning")
    in_order = (not content or content in texts) and (not thought or thoughts.strip() == thought)
    return found == wanted and in_order


def _tool(tool: dict[str, Any]) -> Tool:
    function = tool["function"]
    return Tool(
        function["name"], function["description"], msgspec.Raw(msgspec.json.encode(function["parameters"]))
    )


def is_exact(form: CallForm, prober: Prober) -> bool:
    """Whether what we write for calls is what the template writes for them."""
    count = 2 if prober.capabilities.parallel_calls else 1
    calls = [call(index, first_arguments(index)) for index in range(count)]
    text = prober.calls(calls)
    written = [WrittenCall(NAMES[index], first_arguments(index), IDS[index]) for index in range(count)]
    return text is not None and encode_calls(form, written).strip() in text
