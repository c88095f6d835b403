"""Answers of a model as the events they arrive in: any blocks, cut anywhere."""

import json
from typing import Any

from hypothesis import strategies as st

from corral.events import (
    BlockClosed,
    BlockDelta,
    BlockKind,
    BlockOpened,
    Event,
    Finished,
    FinishReason,
    Prefill,
    Queued,
    Sampled,
    Started,
    Usage,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
arguments = st.dictionaries(
    texts, st.none() | st.integers(-99, 99) | texts | st.lists(texts, max_size=2), max_size=3
)


def finished(reason: FinishReason = "stop", stop: str | None = None, *, completion: int = 7) -> Finished:
    return Finished(reason, stop, Usage(9, 4, completion, reasoning_tokens=2))


def block(index: int, kind: Any, *pieces: str, name: str | None = None, is_whole: bool = True) -> list[Event]:
    """One block's events; a call is `call_<index>`."""
    call_id = None if name is None else f"call_{index}"
    told: list[Event] = [BlockOpened(index, kind, call_id, name)]
    for piece in pieces:
        told += [Sampled(1), BlockDelta(index, piece)]
    return [*told, BlockClosed(index, is_whole)]


@st.composite
def _contents(draw: st.DrawFn, kinds: tuple[BlockKind, ...]) -> list[tuple[BlockKind, str, str | None]]:
    """Blocks in any order: of each its kind, its text and, of a call, its name."""
    contents: list[tuple[BlockKind, str, str | None]] = []
    for kind in draw(st.lists(st.sampled_from(kinds), max_size=4)):
        if kind == "tool":
            whole = json.dumps(draw(arguments), ensure_ascii=False)
            contents.append((kind, whole, draw(st.sampled_from("fgh"))))
        else:
            contents.append((kind, draw(texts), None))
    return contents


@st.composite
def _cut(draw: st.DrawFn, contents: list[tuple[BlockKind, str, str | None]], end: Finished) -> list[Event]:
    """These blocks as events, each cut somewhere."""
    events: list[Event] = [Queued(0), Prefill(9, 9), Started(9, 4)]
    for index, (kind, whole, name) in enumerate(contents):
        cuts = sorted(draw(st.sets(st.integers(0, len(whole)), max_size=4)))
        pieces = [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        events += block(index, kind, *pieces, name=name)
    return [*events, end]


@st.composite
def cut_twice(draw: st.DrawFn, *kinds: BlockKind) -> tuple[list[Event], list[Event]]:
    """A whole answer of blocks of these kinds (none named: of all), cut in two ways."""
    contents = draw(_contents(kinds or ("text", "reasoning", "tool")))
    calls = any(kind == "tool" for kind, _, _ in contents)
    reason: FinishReason = "tool_calls" if calls else draw(st.sampled_from(["stop", "length"]))
    end = finished(reason)
    return draw(_cut(contents, end)), draw(_cut(contents, end))


def answers() -> st.SearchStrategy[list[Event]]:
    """A whole answer: thoughts, texts and calls in any order."""
    return cut_twice().map(lambda cuts: cuts[0])
