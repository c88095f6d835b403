"""The blocks of one answer, as events: text, reasoning, calls.

Whitespace is held until it is known what follows: before and behind a marker it belongs to the marker, and
goes with it. Text and reasoning are otherwise passed on exactly.
"""

import re
from collections.abc import Callable
from typing import Literal, Protocol

from corral.decoding.reader import SPACE
from corral.events import BlockClosed, BlockDelta, BlockKind, BlockOpened

BlockEvent = BlockOpened | BlockDelta | BlockClosed

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_LINE_CHARS = 80  # of a line that is not complete, only its beginning says whether it is a fence


class CallSink(Protocol):
    """Where calls go: to the blocks, or into a log while it is open whether they are calls at all."""

    def open_call(self, name: str) -> None: ...
    def arguments(self, text: str) -> None: ...
    def close_call(self, *, is_whole: bool) -> None: ...


class BlockWriter:
    """Turns text and calls into block events, which `take` hands over."""

    __slots__ = (
        "_behind_marker",
        "_beyond",
        "_events",
        "_fence",
        "_has_text",
        "_index",
        "_kind",
        "_last",
        "_line",
        "_new_id",
        "_space",
        "calls",
        "is_blank",
    )

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._events: list[BlockEvent] = []
        self._index = -1
        self._kind: BlockKind | Literal[""] = ""
        self._space: list[str] = []
        self._behind_marker = False
        self._has_text = False
        self._fence = ""
        self._line = ""
        self._beyond = ""
        self._last = ""
        self.calls = 0
        """Whole calls so far."""
        self.is_blank = True
        """Nothing has been written yet but thoughts and whitespace."""

    def take(self) -> list[BlockEvent]:
        events, self._events = self._events, []
        return events

    @property
    def in_fence(self) -> bool:
        """Whether what comes next stands in a code fence, or on the line that opens one."""
        return bool(self._fence) or bool(self._fence_marks()[0])

    @property
    def behind_backtick(self) -> bool:
        return self._kind == "text" and self._last == "`"

    @property
    def is_empty(self) -> bool:
        """Nothing has been written at all but whitespace."""
        return self._index < 0

    def text(self, text: str) -> None:
        self._write("text", text)

    def reasoning(self, text: str) -> None:
        self._write("reasoning", text)

    def marker(self) -> None:
        """A marker stood here: whitespace around it was its own."""
        self._space.clear()
        self._behind_marker = True
        if not self._fence:
            self._line = self._beyond = self._last = ""

    def open_call(self, name: str) -> None:
        self.marker()
        self._close()
        self._open("tool", self._new_id(), name)
        self.is_blank = False

    def arguments(self, text: str) -> None:
        if text:
            self._delta(text)

    def close_call(self, *, is_whole: bool) -> None:
        self._events.append(BlockClosed(self._index, is_whole))
        self._kind = ""
        self.calls += is_whole
        # Text goes on behind a call as it began before it.
        self._behind_marker = not self._has_text

    def finish(self) -> None:
        """Write the whitespace at the end, unless it stands behind a marker, and close what is open."""
        if self._space and not self._behind_marker and (self._kind or self._index < 0):
            space = "".join(self._space)
            if not self._kind:
                self._open("text")
            self._delta(space)
        self._close()

    def _write(self, kind: Literal["text", "reasoning"], text: str) -> None:
        if kind == "text":
            self._watch_fences(text)
        body = text.rstrip(SPACE)
        if not body:
            if text:
                self._space.append(text)
            return
        following = [text[len(body) :]] if len(body) < len(text) else []
        if self._behind_marker or (kind == "reasoning" and self._kind != kind):
            body = body.lstrip(SPACE)
            if kind == self._kind == "reasoning":
                body = "\n" + body  # one more thought
            self._behind_marker = False
        elif self._space:
            body = "".join(self._space) + body
        self._space = following
        if self._kind != kind:
            self._close()
            self._open(kind)
        self._delta(body)
        if kind == "text":
            self.is_blank = False
            self._has_text = True

    def _open(self, kind: BlockKind, call_id: str | None = None, name: str | None = None) -> None:
        self._index += 1
        self._kind = kind
        self._events.append(BlockOpened(self._index, kind, call_id, name))

    def _close(self) -> None:
        if self._kind:
            self._events.append(BlockClosed(self._index))
            self._kind = ""

    def _delta(self, text: str) -> None:
        last = self._events[-1] if self._events else None
        if isinstance(last, BlockDelta) and last.index == self._index:
            self._events[-1] = BlockDelta(self._index, last.text + text)
        else:
            self._events.append(BlockDelta(self._index, text))

    def _watch_fences(self, text: str) -> None:
        *lines, rest = text.split("\n")
        for line in lines:
            self._add_to_line(line)
            marks, info = self._fence_marks()
            if self._fence:
                is_end = marks[:1] == self._fence[0] and len(marks) >= len(self._fence)
                if is_end and not info.strip():
                    self._fence = ""
            elif marks:
                self._fence = marks
            self._line = self._beyond = self._last = ""
        self._add_to_line(rest)

    def _add_to_line(self, text: str) -> None:
        room = _LINE_CHARS - len(self._line)
        self._line += text[:room]
        self._last = text[-1:] or self._last
        beyond = text[max(room, 0) :]
        # Of the rest only this matters: a backtick, or anything that is no whitespace.
        self._beyond = "`" if "`" in self._beyond + beyond else (self._beyond or beyond.strip()[:1])

    def _fence_marks(self) -> tuple[str, str]:
        """The marks that begin the line if they open or close a fence, and what stands behind them."""
        match = _FENCE.match(self._line)
        if match is None:
            return "", ""
        marks, info = match[1], match[2] + self._beyond
        return ("", "") if marks[0] == "`" and "`" in info else (marks, info)


class CallLog:
    """Calls that may turn out to be text; `replay` writes them where it is known that they are calls."""

    __slots__ = ("_acts", "opened", "whole")

    def __init__(self) -> None:
        self._acts: list[tuple[str, str]] = []
        self.opened = 0
        self.whole = 0

    def open_call(self, name: str) -> None:
        self._acts.append(("open", name))
        self.opened += 1

    def arguments(self, text: str) -> None:
        self._acts.append(("arguments", text))

    def close_call(self, *, is_whole: bool) -> None:
        self._acts.append(("close", ""))
        self.whole += is_whole

    def replay(self, sink: CallSink) -> None:
        """Write all of it; all calls are whole."""
        for act, text in self._acts:
            if act == "open":
                sink.open_call(text)
            elif act == "arguments":
                sink.arguments(text)
            else:
                sink.close_call(is_whole=True)
