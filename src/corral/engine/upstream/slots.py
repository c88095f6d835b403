"""How many sequences an upstream says it computes just now. Pure."""

import re
from typing import Any, Final

import msgspec

from corral.engine.upstream.kinds import Kind

_BUSY: Final = re.compile(
    rb"^(?:corral_slots_busy|vllm:num_requests_running|sglang:num_running_reqs)(?:\{[^}\n]*\})? ([0-9.e+]+)",
    re.MULTILINE,
)


def busy_of(kind: Kind, status: int, body: bytes) -> int | None:
    """What the answer to `kind.slots` says; None if it says nothing of it."""
    if status != 200:
        return None
    if kind.name == "llama-server":
        return _of_slots(body)
    try:
        found = [float(number) for number in _BUSY.findall(body)]
        return round(sum(found)) if found else None
    except (ValueError, OverflowError):  # no number, or none that can be one of sequences
        return None


def _of_slots(body: bytes) -> int | None:
    try:
        slots: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(slots, list) or not all(isinstance(slot, dict) for slot in slots):
        return None
    return sum(bool(slot.get("is_processing")) for slot in slots)
