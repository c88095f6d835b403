"""What the server under test promises to streams: by the pace that its flags name."""

from collections.abc import Sequence

from corral.engine.local.pace import PROMISES

DEFAULT_PACE = "balanced"


def pace_of(flags: Sequence[str]) -> str:
    """The pace that the server's flags name."""
    for at, flag in enumerate(flags):
        name, _, value = flag.partition("=")
        if name == "--pace":
            return value or next(iter(flags[at + 1 :]), DEFAULT_PACE)
    return DEFAULT_PACE


def promised_gap_ms(pace: str) -> float:
    """The longest gap between two tokens that a pace promises. Raises ValueError where there is none such."""
    for name, promise in PROMISES.items():
        if name == pace:
            return promise.gap_ms
    raise ValueError(f"no pace is called {pace}")
