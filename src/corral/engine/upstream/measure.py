"""How many tokens a prompt has, guessed by its bytes: only an upstream can count, and it does so too late.

The ratio follows what upstreams say of prompts before. What is guessed is for routing and for people; whether
a prompt fits is decided by who counts.
"""

import math
from typing import Final

from corral.request import GenerationRequest

FIRST_BYTES: Final = 4.0
"""Of a token, before anything is known."""
MESSAGE_BYTES: Final = 12
"""What a template puts around a message, about."""
SHARE: Final = 0.1
"""What one more prompt counts."""


class Measure:
    """One model's ratio of bytes to tokens."""

    def __init__(self) -> None:
        self._bytes_per_token = FIRST_BYTES

    def size_bytes(self, request: GenerationRequest) -> int:
        """Of a prompt, as far as it is text."""
        if request.prompt is not None:
            prompt = request.prompt
            if prompt.tokens is not None:
                return round(len(prompt.tokens) * self._bytes_per_token)
            return len(prompt.text.encode("utf-8", "replace"))
        size = sum(
            len(tool.name) + len(tool.description) + memoryview(tool.parameters).nbytes
            for tool in request.tools
        )
        for message in request.messages:
            size += MESSAGE_BYTES + len(message.content.encode("utf-8", "replace"))
            size += sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
        return size

    def tokens(self, size_bytes: int) -> int:
        """About how many a prompt of that size has; at least one."""
        return max(1, math.ceil(size_bytes / self._bytes_per_token))

    def learn(self, size_bytes: int, tokens: int) -> None:
        """A prompt of that size had so many."""
        if size_bytes >= 64 and tokens >= 8:
            ratio = min(16.0, max(1.0, size_bytes / tokens))
            self._bytes_per_token += SHARE * (ratio - self._bytes_per_token)
