"""How a client behaves: whether it reads, how fast, when it goes, and by what."""

from dataclasses import dataclass
from enum import Enum


class Leave(Enum):
    """How a client goes. RST_STREAM and GOAWAY exist on HTTP/2 only."""

    FIN = "fin"
    RST = "rst"
    RST_STREAM = "rst_stream"
    GOAWAY = "goaway"


@dataclass(frozen=True, slots=True)
class Habit:
    """How a client behaves. The default reads as fast as it can and stays to the end.

    It leaves `leave_after_s` after its request was sent, or at the `leave_after_deltas`th delta with text,
    by `leave`. A staller stops reading at its first delta with text and waits at most `stall_limit_s` for
    the server to end the connection; its socket's receive buffer should be small.
    """

    leave: Leave = Leave.FIN
    leave_after_s: float | None = None
    leave_after_deltas: int | None = None
    half_closes: bool = False
    stalls: bool = False
    stall_limit_s: float = 60.0
    read_bytes_s: float | None = None
    receive_buffer_bytes: int | None = None
    send_bytes_s: float | None = None
    pipelined: bytes = b""


POLITE = Habit()


PHASES = ("queue", "prefill", "decode")
"""Where a request may be when its client leaves."""


@dataclass(frozen=True, slots=True)
class Departure:
    """A kind of client that leaves: where its request is then, whether it is streamed, and how it goes."""

    phase: str
    leave: Leave
    streams: bool = True

    def __str__(self) -> str:
        return f"{self.phase}, {'streaming' if self.streams else 'not streaming'}, {self.leave.name}"
