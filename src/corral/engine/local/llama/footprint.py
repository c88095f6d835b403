"""How much memory a model takes, worked out from what its file says of itself."""

from dataclasses import dataclass

from corral.engine.local.llama.backend import AUTO_CTX_TOKENS
from corral.engine.local.llama.modelfile import Description

BESIDE_BYTES = 300_000_000
"""What corral takes beside weights and KV caches, as measured for a vocabulary of 49,152 tokens: Python and
llama.cpp's buffers 200 MB, and 50 MB for each of the two processes that write prompts (docs/models.md)."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model takes in bytes, an upper estimate."""

    weights: int
    ctx_tokens: int
    kv_cache: int
    """One KV cache of `ctx_tokens`."""
    slots: int

    @property
    def shared(self) -> int:
        """With one KV cache for all slots."""
        return self.weights + self.kv_cache + BESIDE_BYTES

    @property
    def per_slot(self) -> int:
        """With a KV cache for each slot."""
        return self.weights + self.slots * self.kv_cache + BESIDE_BYTES


def context(description: Description, ctx_tokens: int) -> int:
    """How long a text may be where `ctx_tokens` are asked for, 0: as long as the model's own."""
    return ctx_tokens or min(description.train_ctx_tokens or AUTO_CTX_TOKENS, AUTO_CTX_TOKENS)


def footprint(description: Description, ctx_tokens: int, slots: int) -> Footprint | None:
    """What a model takes with these settings; None where its file does not say how large its KV cache is."""
    if description.kv_token_bytes is None:
        return None
    ctx_tokens = context(description, ctx_tokens)
    return Footprint(description.size_bytes, ctx_tokens, description.kv_token_bytes * ctx_tokens, slots)
