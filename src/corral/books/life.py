"""The states of a request, and how long it spends in each: all transitions are here and only here.

    what happened   said by                          preparing  queued     prefill    decode     write
    --------------  -------------------------------  ---------  ---------  ---------  ---------  ---------
    PREPARED        serving: its prompt is written   queued
    ADMITTED        serving: it has its slots                   prefill
    FIRST_TOKEN     the engine: a token was sampled                        decode
    ENGINE_ENDED    the engine, or whoever ended it  write      write      write      write
    WRITE_BEGAN     http: a write is under way       (its time counts as `write` until it is taken)
    WRITE_TAKEN     http: the connection took it
    DELIVERED       http: it took the last of it     (noted, for the outcome)
    OVER            http: the response is over       over       over       over       over       over
    RELEASED        the engine let go of a sequence  (one less is held; also, and often, when it is over)

What has no entry changes nothing: a second sequence's first token, an end after an end. A client that lets a
write wait puts its request into `write` early, for as long as that write takes; the engine's state goes on
beneath. So the times in the states add up to the total exactly, and the one that is large says why a
request was slow. `over` takes no time.

A request is *settled* when it is over and the engine holds nothing of it. Which of the two comes last is not
said: an engine may let go of what it has finished long before a slow client has read it, or, of what was
cancelled, one step after its client has gone.
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import Final, Literal

State = Literal["preparing", "queued", "prefill", "decode", "write"]
STATES: Final[tuple[State, ...]] = ("preparing", "queued", "prefill", "decode", "write")


class Happening(Enum):
    PREPARED = auto()
    ADMITTED = auto()
    FIRST_TOKEN = auto()
    ENGINE_ENDED = auto()
    WRITE_BEGAN = auto()
    WRITE_TAKEN = auto()
    DELIVERED = auto()
    OVER = auto()
    RELEASED = auto()


_NEXT: Final[dict[tuple[State, Happening], State]] = {
    ("preparing", Happening.PREPARED): "queued",
    ("queued", Happening.ADMITTED): "prefill",
    ("prefill", Happening.FIRST_TOKEN): "decode",
    ("preparing", Happening.ENGINE_ENDED): "write",
    ("queued", Happening.ENGINE_ENDED): "write",
    ("prefill", Happening.ENGINE_ENDED): "write",
    ("decode", Happening.ENGINE_ENDED): "write",
}


class Life:
    """The states of one request of `sequences`, on the clock `now_s`, which is monotonic, in seconds."""

    __slots__ = (
        "_now_s",
        "_sequences",
        "_since_s",
        "_spent_s",
        "_write_began_s",
        "admitted_s",
        "began_s",
        "ended_s",
        "engine_state",
        "first_token_s",
        "held",
        "is_delivered",
        "is_over",
        "is_writing",
    )

    def __init__(self, sequences: int, now_s: Callable[[], float]) -> None:
        self._sequences = sequences
        self._now_s = now_s
        self.began_s = self._since_s = now_s()
        self._spent_s: dict[State, float] = dict.fromkeys(STATES, 0.0)
        self.engine_state: State = "preparing"
        """As `state`, but for a write that waits while the engine goes on."""
        self.held = 0
        """Sequences that the engine has of it."""
        self.is_writing = False
        self._write_began_s = 0.0
        self.is_delivered = False
        self.is_over = False
        self.admitted_s: float | None = None
        self.first_token_s: float | None = None
        self.ended_s: float | None = None
        """When the engine was done with it, or was told to be."""

    @property
    def state(self) -> State:
        return "write" if self.is_writing else self.engine_state

    @property
    def is_settled(self) -> bool:
        """Nothing can happen to it any more."""
        return self.is_over and not self.held

    def happened(self, what: Happening) -> bool:
        """Note it; whether the engine's state has changed by it."""
        match what:
            case Happening.ADMITTED:
                self.held = self._sequences
            case Happening.RELEASED:
                self.held -= 1
        if self.is_over:
            return False
        now_s = self._now_s()
        self._spent_s[self.state] += now_s - self._since_s
        self._since_s = now_s
        match what:
            case Happening.WRITE_BEGAN | Happening.WRITE_TAKEN:
                self.is_writing = what is Happening.WRITE_BEGAN
                self._write_began_s = now_s
                return False
            case Happening.DELIVERED:
                self.is_delivered = True
                return False
            case Happening.OVER:
                self.is_over = True
                return False
        following = _NEXT.get((self.engine_state, what))
        if following is None:
            return False
        match following:
            case "prefill":
                self.admitted_s = now_s
            case "decode":
                self.first_token_s = now_s
            case "write":
                self.ended_s = now_s
        self.engine_state = following
        return True

    def spent_s(self) -> dict[State, float]:
        """The seconds in each state up to now, or up to its end."""
        spent_s = dict(self._spent_s)
        if not self.is_over:
            spent_s[self.state] += self._now_s() - self._since_s
        return spent_s

    @property
    def total_s(self) -> float:
        return sum(self.spent_s().values())

    @property
    def ttft_s(self) -> float | None:
        """Time to first token, from acceptance."""
        return None if self.first_token_s is None else self.first_token_s - self.began_s

    @property
    def waited_s(self) -> float:
        """How long it has been there."""
        return self._now_s() - self.began_s

    @property
    def write_s(self) -> float | None:
        """How long the write that is under way has waited for its client; None if none is."""
        return self._now_s() - self._write_began_s if self.is_writing and not self.is_over else None

    @property
    def prefill_s(self) -> float | None:
        """From its slot to its first token."""
        if self.first_token_s is None or self.admitted_s is None:
            return None
        return self.first_token_s - self.admitted_s

    @property
    def decode_s(self) -> float | None:
        """From its first token until the engine ended, or now."""
        if self.first_token_s is None:
            return None
        return (self._now_s() if self.ended_s is None else self.ended_s) - self.first_token_s
