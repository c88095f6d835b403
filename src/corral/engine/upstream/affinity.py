"""Which replica has probably computed the beginning of a conversation: a hint, by hashes. Pure.

A conversation is cut into blocks, at the end of each message and every BLOCK_BYTES within one, and each
block's hash covers all before it. So two conversations share as many hashes as they share beginnings, and the
last hash that is known of a replica says how much it can reuse. Nothing here is certain: a replica may have
forgotten. What is kept is bounded, the longest unused goes first.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from corral.request import GenerationRequest, Message

BLOCK_BYTES: Final = 2048
KEPT_HASHES: Final = 2**16
KEPT_REPLICAS: Final = 8
"""Of each hash: a system prompt that all have need not be known of all."""
MOST_BLOCKS: Final = 1024
"""Of one conversation; what follows is not looked at."""


@dataclass(frozen=True, slots=True)
class Block:
    """The `hash` of all up to its end, and how many bytes that is."""

    hash: bytes
    end_bytes: int


def blocks_of(request: GenerationRequest) -> tuple[Block, ...]:
    """The blocks of a request's prompt, in their order."""
    digest = blake2b(digest_size=16)
    blocks: list[Block] = []
    end = 0
    for piece in _pieces(request):
        for start in range(0, max(1, len(piece)), BLOCK_BYTES):
            part = piece[start : start + BLOCK_BYTES]
            digest.update(part)
            end += len(part)
            blocks.append(Block(digest.digest(), end))
            if len(blocks) == MOST_BLOCKS:
                return tuple(blocks)
    return tuple(blocks)


def _pieces(request: GenerationRequest) -> Iterator[bytes]:
    if request.prompt is not None:
        prompt = request.prompt
        yield (prompt.text if prompt.tokens is None else str(prompt.tokens)).encode("utf-8", "replace")
        return
    if request.tools:
        # A template may write them anywhere, and mostly first.
        yield b"".join(
            tool.name.encode("utf-8", "replace")
            + tool.description.encode("utf-8", "replace")
            + bytes(tool.parameters)
            for tool in request.tools
        )
    for message in request.messages:
        yield _piece(message)


def _piece(message: Message) -> bytes:
    calls = "".join(f"\0{call.name}\0{call.arguments}" for call in message.tool_calls)
    return f"\0{message.role}\0{message.content}{calls}".encode("utf-8", "replace")


class Affinity:
    """What is known of all replicas, which are named by numbers."""

    __slots__ = ("_known", "_limit")

    def __init__(self, limit: int = KEPT_HASHES) -> None:
        self._limit = limit
        self._known: OrderedDict[bytes, list[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def note(self, blocks: Sequence[Block], replica: int) -> None:
        """A replica computes these."""
        for block in reversed(blocks):  # so that of one conversation the end is forgotten first
            replicas = self._known.pop(block.hash, None)
            if replicas is None:
                replicas = [replica]
            elif replicas[-1] != replica:
                if replica in replicas:
                    replicas.remove(replica)
                replicas.append(replica)
                del replicas[:-KEPT_REPLICAS]
            self._known[block.hash] = replicas
        while len(self._known) > self._limit:
            self._known.popitem(last=False)

    def known_bytes(self, blocks: Sequence[Block]) -> dict[int, int]:
        """How much of it each replica has probably, of those that have any."""
        known: dict[int, int] = {}
        for block in blocks:
            replicas = self._known.get(block.hash)
            if replicas is None:
                break
            for replica in replicas:
                known[replica] = block.end_bytes
        return known

    def forget(self, replica: int) -> None:
        """It has lost what it had, or is gone."""
        for known, replicas in tuple(self._known.items()):
            if replica in replicas:
                replicas.remove(replica)
                if not replicas:
                    del self._known[known]
