"""What is to be done to the KV cache before a step, in order: cache.py books it, and the worker does it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Forget:
    """Empty a sequence of the cache."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Drop what a sequence holds from position `length` on."""

    sequence: int
    length: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Let the empty sequence `target` begin with the first `length` tokens of `source`."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class Save:
    """Copy a sequence to the host's memory, as `state`."""

    sequence: int
    state: int


@dataclass(frozen=True, slots=True)
class Load:
    """Put a saved state into the empty sequence `target`, and cut it to `length` tokens."""

    state: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget a saved state."""

    state: int


Operation = Forget | Cut | Copy | Save | Load | Drop
