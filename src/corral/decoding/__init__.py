"""Token bytes to what a client sees: UTF-8 text, up to a stop string, as events.

    piece: bytes -> incremental UTF-8 -> StopFinder -> BlockOpened, BlockDelta*, BlockClosed

Sans-IO, with `feed` and `finish`. It runs in the engine thread for every token, so that a stop string ends
a generation in the step that completed it; it blocks on nothing and costs a few µs per token.
"""

from corral.decoding.text import TextDecoder

__all__ = ["TextDecoder"]
