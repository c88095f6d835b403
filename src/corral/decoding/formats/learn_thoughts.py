"""Thoughts, and what a prompt says about them: open, closed, or the model's to open.

Where a field for thoughts is rendered, what stands around the word in it is the opener and the closer. Where
none is, the prompts for thinking on and off tell, or the tags that the template's text names.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

from corral.decoding.formats.cuts import Cutter, is_mark
from corral.decoding.formats.form import Headers, ThoughtForm
from corral.decoding.formats.probe import (
    CONTENT,
    NAMES,
    THOUGHT,
    USER,
    VALUES,
    Prober,
    behind_user,
    call,
    first_arguments,
    thought_of,
)

_SWITCHES: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"enable_thinking": True}, {"enable_thinking": False}),
    ({"thinking": True}, {"thinking": False}),
    ({"reasoning_effort": "high"}, {"reasoning_effort": "none"}),
    ({"reasoning_effort": "high"}, {"reasoning_effort": "no_think"}),
    ({"reasoning_effort": "high"}, {"reasoning_effort": "minimal"}),
    ({"reasoning": True}, {"reasoning": False}),
    ({"thinking_mode": "on"}, {"thinking_mode": "off"}),
)
_SYSTEM_FLAGS = ("/think", "/no_think")
_THOUGHT_TAG = re.compile(
    r"<(/?)([\w:.-]*(?:think|thought|reason)[\w:.-]*)>|\[(/?)((?:THINK|REASON)[A-Z_]*)\]"
)
_THOUGHT_WORD = re.compile(r"think|thought|reason", re.IGNORECASE)
_CODE = re.compile(r"\{[%{].*?[%}]\}", re.DOTALL)
_QUOTED = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"")
_LONGEST_MARK = 64
_THOUGHT_BLOCKS = ("thinking", "reasoning", "thought", "thoughts")
_TEXT_BLOCKS = ("text", "response", "output_text")
_BEGIN_END = (("begin", "end"), ("start", "end"), ("START", "END"), ("BEGIN", "END"))
_ANSWER_WORD = re.compile(r"answer|response|final|content|output|message|assistant|model", re.IGNORECASE)
_ANSWER_TAG = re.compile(r"<((?:response|answer|final)[a-z_]*)></\1>")

ThoughtState = Literal["open", "closed", "free"]


@dataclass(frozen=True, slots=True)
class Switch:
    """How thinking is turned on or off: arguments for the template, or words in the system message."""

    kwargs: dict[str, Any] = field(default_factory=dict)
    system_text: str = ""


@dataclass(frozen=True, slots=True)
class Prompts:
    """What follows the user's text in a prompt, by thinking; None where there is no such switch.

    `header` begins every turn of the assistant; `user_end` is what ends the user's.
    """

    default: str = ""
    on: str | None = None
    off: str | None = None
    header: str = ""
    user_end: str = ""
    switch_on: Switch | None = None
    switch_off: Switch | None = None

    def state(self, prompt: str, thought: ThoughtForm | None) -> ThoughtState:
        """Whether a prompt that ends like this leaves a thought open, has closed it, or neither."""
        if thought is None:
            return "free"
        end = "".join(prompt.split())
        if thought.opener.strip() and end.endswith("".join(thought.opener.split())):
            return "open"
        if thought.closer.strip() and end.endswith("".join(thought.closer.split())):
            return "closed"
        return "free"


def learn_prompts(prober: Prober, cutter: Cutter) -> Prompts:
    """The generation prompts, and the switch between them if there is one."""
    default = prober.prompt() or ""
    user_end = behind_user(prober.render([{"role": "user", "content": USER}])) or ""
    found = _switch(prober, default)
    on, off = (found[1], found[3]) if found else (None, None)
    header = default[len(user_end) :] if default.startswith(user_end) else default
    answer = (prober.answer({"content": CONTENT}) or "").partition(CONTENT)[0]
    for text in filter(None, (answer, on, off)):
        other = text[len(user_end) :] if text.startswith(user_end) else ""
        header = cutter.common_prefix(header, other) or header
    header = _without_thought(cutter, header)
    header = _without_shared(cutter, header, [default, answer, on or "", off or ""])
    return Prompts(
        default=default,
        on=on,
        off=off,
        header=header,
        user_end=user_end,
        switch_on=found[0] if found else None,
        switch_off=found[2] if found else None,
    )


def _without_thought(cutter: Cutter, header: str) -> str:
    """A header without the opener of a thought that all prompts end with."""
    units = cutter.units(header)
    while units and units[-1].isspace():
        units.pop()
    if units and is_mark(units[-1]) and _THOUGHT_WORD.search(units[-1]):
        return "".join(units[:-1])
    return header


def _without_shared(cutter: Cutter, header: str, texts: list[str]) -> str:
    """A header without a token that begins different markers, each going on with a word."""
    units = cutter.units(header)
    if not units or not cutter.control.fullmatch(units[-1]):
        return header
    rests = [text[text.rindex(header) + len(header) :] for text in texts if header in text]
    return "".join(units[:-1]) if any(rest[:1].isalnum() for rest in rests) else header


def _switch(prober: Prober, default: str) -> tuple[Switch, str, Switch, str] | None:
    instructions: tuple[Switch, str, Switch, str] | None = None
    user = {"role": "user", "content": USER}
    for on_kwargs, off_kwargs in _SWITCHES:
        on = prober.render([user], generation=True, **on_kwargs)
        off = prober.render([user], generation=True, **off_kwargs)
        if on is None or off is None or on == off:
            continue
        found = (Switch(on_kwargs), behind_user(on) or "", Switch(off_kwargs), behind_user(off) or "")
        if found[1] != found[3]:
            return found
        instructions = instructions or found
    texts = []
    for flag in _SYSTEM_FLAGS:
        text = prober.render([{"role": "system", "content": flag}, user], generation=True)
        texts.append(behind_user(text) or "")
    if texts[0] and texts[1] and texts[0] != texts[1]:
        on_flag, off_flag = _SYSTEM_FLAGS
        return Switch(system_text=on_flag), texts[0], Switch(system_text=off_flag), texts[1]
    return instructions


def thought_turn(prober: Prober, *, with_call: bool = False, content: str = CONTENT) -> str | None:
    """A turn with a thought, and text or a call behind it; None where the thought is not rendered."""
    can = prober.capabilities
    if can.reasoning_field is None:
        return None
    if with_call:
        if not can.calls:
            return None
        text = prober.calls([call(0, first_arguments(0))], thought=THOUGHT)
    else:
        message = {"content": content, **thought_of(can.reasoning_field, THOUGHT, content)}
        text = prober.answer(message, **can.reasoning_kwargs)
    return text if text is not None and THOUGHT in text else None


class ThoughtLearner:
    def __init__(self, prober: Prober, cutter: Cutter, prompts: Prompts, answer: str, source: str) -> None:
        self._prober = prober
        self._cutter = cutter
        self._prompts = prompts
        self._answer = answer
        self._source = source

    def learn(self, headers: Headers | None) -> ThoughtForm | None:
        """Opener and closer, or None where the template knows no thoughts. Headers say it themselves."""
        if headers is not None:
            return None
        found = self._from_field() or self._from_prompts() or self._from_removal()
        return found or self._from_source()

    def _from_field(self) -> ThoughtForm | None:
        beside_text = thought_turn(self._prober) or self._turn_of_blocks()
        beside_call = thought_turn(self._prober, with_call=True)
        turn = beside_text or beside_call
        if turn is None:
            return None
        lead = turn[: turn.index(THOUGHT)]
        opener = self._opener(lead)
        gaps = []
        for text, end in ((beside_text, CONTENT), (beside_call, NAMES[0])):
            if text is not None and end in text[text.index(THOUGHT) :]:
                rest = text[text.index(THOUGHT) + len(THOUGHT) :]
                gaps.append(rest[: rest.index(end)])
        if not gaps:
            return None
        closer = gaps[0] if len(gaps) == 1 else self._cutter.common_prefix(gaps[0], gaps[1])
        header = self._prompts.header.strip()
        if header and header in closer:
            closer = closer[: closer.index(header)]
        closer = self._closer(closer if closer.strip() else gaps[0], opener)
        return ThoughtForm(opener, closer) if opener.strip() and closer.strip() else None

    def _turn_of_blocks(self) -> str | None:
        """A turn whose thought is a block of its content, in words of the template's own: they are only read
        here, and no conversation is written in them."""
        named = set(self._quoted())
        for thought, text in product(_THOUGHT_BLOCKS, _TEXT_BLOCKS):
            if not {thought, text} <= named:
                continue
            blocks = [{"type": thought, "text": THOUGHT}, {"type": text, "text": CONTENT}]
            for content in (blocks, {"blocks": blocks}):
                turn = self._prober.answer({"content": content})
                if turn is not None and THOUGHT in turn and f"'{thought}'" not in turn:
                    return turn
        return None

    def _closer(self, gap: str, opener: str) -> str:
        """The closer, out of what stands between a thought and what comes next."""
        opening = [unit for unit in self._cutter.units(opener) if not unit.isspace()]
        units = self._cutter.units(gap)
        marks = [index for index, unit in enumerate(units) if is_mark(unit)]
        if len(opening) > 1 and len(opening[0]) > 1 and opening[0] in units:
            # Several units make one marker, and the next one begins as the opener does.
            units = units[: units.index(opening[0])]
        elif marks:
            units = units[: marks[0] + 1] + [unit for unit in units[marks[0] + 1 :][:1] if unit.isspace()]
        return "".join(units)

    def _opener(self, lead: str) -> str:
        """What stands between the assistant's header and a thought."""
        begin = self._prompts.user_end + self._prompts.header
        shared = self._cutter.common_prefix(lead, begin)
        opener = lead[len(shared) :]
        units = self._cutter.units(shared)
        prefilled = self._prompts.default[len(begin) :]
        if not opener.strip() and prefilled.strip() and not any(map(is_mark, self._cutter.units(prefilled))):
            return prefilled  # words that the prompt begins every thought with
        if not opener.strip():
            # The header itself ends with the opener.
            tail: list[str] = []
            while units and not "".join(tail).strip():
                tail.insert(0, units.pop())
            return "".join(tail) + opener
        return opener

    def _from_prompts(self) -> ThoughtForm | None:
        """From what the prompts add to the header: an open thought, or one that is closed again."""
        prompts = self._prompts
        begin = prompts.user_end + prompts.header
        texts = (prompts.off, prompts.default, prompts.on)
        marks = [self._marks(text[len(begin) :]) for text in texts if text and text.startswith(begin)]
        header_marks = self._marks(prompts.header)
        for found in marks:
            if len(found) == 2:
                return ThoughtForm(found[0], found[1])
        for found in [*marks, header_marks[-1:]]:
            if found and _THOUGHT_TAG.fullmatch(found[-1]):
                opener = found[-1]
                closer = opener.replace("<", "</", 1) if opener[0] == "<" else opener.replace("[", "[/", 1)
                return ThoughtForm(opener, closer)
            if found and len(found) == 1 and self._closing(found[0]):
                return ThoughtForm(found[0], self._closing(found[0]))
        opened = self._prefilled()
        is_only_there = opened is not None and opened not in self._answer and not _ANSWER_WORD.search(opened)
        if opened is not None and (is_only_there or _THOUGHT_WORD.search(opened)):
            closer = next((one for one in _closings(opened) if one in self._source), _closings(opened)[0])
            return ThoughtForm(opened, closer)
        return None

    def _prefilled(self) -> str | None:
        """The marker that every prompt ends with behind the header."""
        begin = self._prompts.user_end + self._prompts.header
        marks = self._marks(self._prompts.default.removeprefix(begin))
        return marks[-1] if marks and self._prompts.default.rstrip().endswith(marks[-1]) else None

    def _from_removal(self) -> ThoughtForm | None:
        """From what the template takes out of earlier answers: all that stands before a thought's closer."""
        for closer in dict.fromkeys(text.replace("\\n", "\n").strip() for text in self._quoted()):
            is_candidate = is_mark(closer) or _THOUGHT_WORD.search(closer)
            if not is_candidate or closer.isalnum() or len(closer) > _LONGEST_MARK:
                continue
            text = self._prober.render(
                [
                    {"role": "user", "content": USER},
                    {"role": "assistant", "content": f"{THOUGHT}{closer}{CONTENT}"},
                    {"role": "user", "content": USER},
                ]
            )
            if text is None or THOUGHT in text or CONTENT not in text:
                continue
            openings = _openings(closer)
            opener = next((one for one in openings if one in self._source), None)
            opener = self._prefilled() or opener or next(iter(openings), None)
            if opener is not None and opener != closer:
                return ThoughtForm(opener, closer)
        return None

    def _quoted(self) -> list[str]:
        """The texts that stand in quotes in the template's code."""
        code = " ".join(_CODE.findall(self._source))
        return [match[0][1:-1] for match in _QUOTED.finditer(code)]

    def _marks(self, text: str) -> list[str]:
        return [unit for unit in self._cutter.units(text) if is_mark(unit)]

    def _closing(self, opener: str) -> str:
        """The counterpart of an opening tag, if the template's text has it."""
        for closer in (opener.replace("<", "</", 1), opener.replace("[", "[/", 1)):
            if closer != opener and closer in self._source:
                return closer
        return ""

    def _from_source(self) -> ThoughtForm | None:
        """Tags for thoughts that the template's own text names, in code or in instructions."""
        for match in _THOUGHT_TAG.finditer(self._source):
            slash, name, bracket_slash, bracket_name = match.groups()
            if name is not None and (slash or f"</{name}>" in self._source):
                return ThoughtForm(f"<{name}>", f"</{name}>")
            if bracket_name is not None and (bracket_slash or f"[/{bracket_name}]" in self._source):
                return ThoughtForm(f"[{bracket_name}]", f"[/{bracket_name}]")
        return None


def _closings(opener: str) -> list[str]:
    """What may close what this marker opens, by its shape; never empty."""
    others = [re.sub(word, end, opener) for word, end in _BEGIN_END if re.search(word, opener)]
    return [*others, re.sub(r"^(\W+)", r"\1/", opener, count=1)]


def _openings(closer: str) -> list[str]:
    """What may have opened what this marker closes, by its shape."""
    others = [re.sub(end, word, closer) for word, end in _BEGIN_END if re.search(end, closer)]
    return [*others, *([closer.replace("/", "", 1)] if "/" in closer else [])]


def answer_tags(source: str) -> tuple[str, str] | None:
    """Tags that the instructions want around the answer itself."""
    match = _ANSWER_TAG.search(source)
    return (f"<{match[1]}>", f"</{match[1]}>") if match else None


def learn_headers(prober: Prober, cutter: Cutter, prompts: Prompts, answer: str, end: str) -> Headers | None:
    """The layout of several messages with headers: where the prompt leaves the header open, and the same
    control token ends the header of a thought, of an answer and of a call."""
    header = prompts.header.strip()
    units = cutter.units(header)
    if not units or not cutter.control.fullmatch(units[0]) or cutter.control.fullmatch(units[-1]):
        return None
    turn = thought_turn(prober) or thought_turn(prober, with_call=True)
    if turn is None or header not in answer or header not in turn:
        return None
    content_units = cutter.units(answer[answer.rindex(header) + len(header) :])
    lead = turn[: turn.index(THOUGHT)]
    thought_units = cutter.units(lead[lead.rindex(header) + len(header) :])
    if not content_units or not thought_units or content_units[-1] != thought_units[-1]:
        return None
    body = content_units[-1]
    content_header, thought_header = "".join(content_units[:-1]), "".join(thought_units[:-1])
    if not cutter.control.fullmatch(body) or content_header == thought_header:
        return None
    ends = [
        _first_control(cutter, end),
        _first_control(cutter, turn[turn.index(THOUGHT) :]),
        _first_control(cutter, _text_between(prober)),
    ]
    recipient: str | None = None
    calls = prober.calls([call(0, first_arguments(0))]) if prober.capabilities.calls else None
    if calls is not None:
        last = calls.rfind(VALUES[0][1])
        ends.append(_first_control(cutter, calls[last:]))
        head = calls[calls.find(header) + len(header) :]
        name, at = head.find(NAMES[0]), head.find(body)
        if 0 <= name < at:
            recipient = head[:name]
    return Headers(
        start=header,
        body=body,
        ends=tuple(dict.fromkeys(filter(None, ends))),
        thought=thought_header,
        content=content_header,
        recipient=recipient,
    )


def _text_between(prober: Prober) -> str:
    """What follows an answer that is not the last message."""
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": CONTENT},
        {"role": "user", "content": "y"},
    ]
    return (prober.render(messages) or "").partition(CONTENT)[2]


def texts_behind(prober: Prober) -> tuple[str, ...]:
    """What follows an answer, and calls, where the conversation goes on."""
    found = [_text_between(prober)]
    if prober.capabilities.calls:
        calls = [call(0, first_arguments(0))]
        turn = prober.calls(calls)
        answered = prober.calls(calls, results=True)
        if turn and answered and answered.startswith(turn):
            found.append(answered.removeprefix(turn))
    return tuple(found)


def _first_control(cutter: Cutter, text: str) -> str:
    match = cutter.control.search(text)
    return match[0] if match else ""


def kwargs_of(switch: Switch | None) -> Mapping[str, Any]:
    return switch.kwargs if switch is not None else {}
