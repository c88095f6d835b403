import pytest

from corral.engine.local.prompts import bounds
from corral.errors import ContextExceeded
from corral.request import GenerationRequest, Message, ToolCall


def check(*messages: Message, limit_tokens: int = 10, longest_token_bytes: int = 4) -> None:
    bounds.check(
        GenerationRequest(messages=messages),
        limit_tokens=limit_tokens,
        longest_token_bytes=longest_token_bytes,
    )


def test_what_could_fit_is_let_through() -> None:
    check(Message("user", "x" * 40))
    check(Message("user", "é" * 20))
    check(*[Message("user", "")] * 10)


@pytest.mark.parametrize(
    "messages",
    [
        [Message("user", "x" * 41)],
        [Message("user", "é" * 21)],
        [Message("user", "x" * 21), Message("user", "x" * 20)],
        [Message("assistant", "", tool_calls=(ToolCall("1", "f", "x" * 41),))],
        [Message("user", "")] * 11,
    ],
)
def test_more_bytes_or_messages_than_there_can_be_tokens_for_are_refused(messages: list[Message]) -> None:
    with pytest.raises(ContextExceeded) as exceeded:
        check(*messages)
    assert (exceeded.value.prompt_tokens, exceeded.value.limit_tokens) == (11, 10)
    assert "maximum context length is 10 tokens" in exceeded.value.message
