"""Answers of a model as the events they arrive in: any blocks, cut anywhere."""

import json
from typing import Any

from hypothesis import strategies as st

from corral.events import (
    BlockClosed,
    BlockDelta,
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
def answers(draw: st.DrawFn) -> list[Event]:
    """A whole answer: thoughts, texts and calls in any order."""
    events: list[Event] = [Queued(0), Prefill(9, 9), Started(9, 4)]
    kinds = draw(st.lists(st.sampled_from(["text", "reasoning", "tool"]), max_size=4))
    for index, kind in enumerate(kinds):
        is_call = kind == "tool"
        whole = json.dumps(draw(arguments), ensure_ascii=False) if is_call else draw(texts)
        cuts = sorted(draw(st.sets(st.integers(0, len(whole)), max_size=4)))
        pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        events += block(index, kind, *pieces, name=draw(st.sampled_from("fgh")) if is_call else None)
    reason: FinishReason = "tool_calls" if "tool" in kinds else draw(st.sampled_from(["stop", "length"]))
    return [*events, finished(reason)]
