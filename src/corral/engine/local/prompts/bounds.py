"""What cannot fit the context is refused before it is rendered or tokenized, which could take gigabytes."""

from corral.errors import prompt_too_long
from corral.request import GenerationRequest


def check(request: GenerationRequest, *, limit_tokens: int, longest_token_bytes: int) -> None:
    """Refuse a request of which it is certain that it has more tokens than `limit_tokens`.

    No token stands for more than `longest_token_bytes`, and each message takes at least one. Raises
    ContextExceeded with the fewest tokens that the prompt can have.
    """
    least = len(request.messages)
    if request.prompt is not None and request.prompt.tokens is not None:
        least = len(request.prompt.tokens)
    if least <= limit_tokens:  # else looking at all of their text would cost something too
        least = max(least, -(-text_bytes(request) // longest_token_bytes))
    if least > limit_tokens:
        raise prompt_too_long(least, limit_tokens, "at least ", param=request.prompt_param)


def text_bytes(request: GenerationRequest) -> int:
    """The text of all messages in UTF-8; not what comes of it in a template, and not the tools."""
    if request.prompt is not None:
        return _bytes(request.prompt.text) + _bytes(request.prompt.suffix or "")
    return sum(
        _bytes(message.content) + sum(_bytes(call.arguments) for call in message.tool_calls)
        for message in request.messages
    )


def _bytes(text: str) -> int:
    # Encoding is as quick as anything that would avoid the copy.
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
