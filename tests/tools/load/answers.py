"""Answers that nobody gave."""

from collections.abc import Sequence
from typing import Any

from tools.clients.sse import Answer, Usage


def answer(
    ending: str = "done",
    *,
    sent_s: float = 0.0,
    content_s: Sequence[float] = (),
    tokens: int | None = None,
    **fields: Any,
) -> Answer:
    seen = Answer(sent_s=sent_s, content_s=list(content_s), ending=ending, finish_reason="stop", status=200)
    seen.usage = Usage(5, tokens) if tokens is not None else None
    for name, value in fields.items():
        setattr(seen, name, value)
    return seen
