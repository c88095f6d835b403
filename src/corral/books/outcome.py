"""How a request can end, in one word."""

from typing import Final, Literal

from corral import errors

Outcome = Literal[
    "stop",
    "stop_sequence",
    "length",
    "tool_calls",
    "disconnected",
    "cancelled",
    "evicted",
    "stopped_by_operator",
    "deadline",
    "shutdown",
    "refused",
    "failed",
]

_OUTCOMES: Final[tuple[tuple[type[BaseException], Outcome], ...]] = (
    (errors.Cancelled, "cancelled"),
    (errors.StoppedByOperator, "stopped_by_operator"),
    (errors.DeadlineExceeded, "deadline"),
    (errors.ShutDown, "shutdown"),
    (errors.InvalidRequest, "refused"),
)


def outcome_of(error: BaseException) -> Outcome:
    """What an error that ended a request is called in the books."""
    return next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), "failed")
