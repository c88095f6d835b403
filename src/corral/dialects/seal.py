"""Thoughts that leave the server and come back: signed, or sealed into one string."""

import base64
import hashlib
import hmac
from typing import Final

PREFIX: Final = "corral-"


class Seal:
    """Marks a thought as ours. The same thought gets the same mark, and nobody else can make one.

    The thought itself is no secret: a client that asks for it sees it anyway.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def signature(self, thought: str) -> str:
        """What goes with a thought; never empty."""
        return base64.b64encode(self._digest(thought.encode())).decode()

    def sealed(self, thought: str) -> str:
        """The thought and its mark, as one string."""
        raw = thought.encode()
        return PREFIX + base64.b64encode(self._digest(raw) + raw).decode()

    def opened(self, sealed: str) -> str | None:
        """The thought in it; None if it is not one of ours."""
        if not sealed.startswith(PREFIX):
            return None
        try:
            raw = base64.b64decode(sealed.removeprefix(PREFIX), validate=True)
        except ValueError:
            return None
        size = hashlib.sha256().digest_size
        digest, thought = raw[:size], raw[size:]
        return thought.decode() if hmac.compare_digest(digest, self._digest(thought)) else None

    def _digest(self, thought: bytes) -> bytes:
        return hmac.digest(self._key, thought, hashlib.sha256)
