"""One request, from acceptance to its one end: what happened to it, and where its time went.

The time of a request is spent in one state after the other, never in two:

    queued -> prefill -> decode -> write -> over

`queued` until it has a slot, `prefill` until its first token, `decode` until the engine has ended it, `write`
until its client has taken the answer. A client that lets a write wait puts it into `write` early, for as long
as that write takes. So the times in the states add up to the total exactly, and the one that is large says
why a request was slow.

The first cause of its end is its outcome: a client that leaves because an operator stopped its request does
not make it `disconnected`.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from corral import errors
from corral.engine.contract import Released
from corral.events import BlockDelta, Event, Failed, Finished, Prefill, Queued, Sampled, Started
from corral.request import GenerationRequest

if TYPE_CHECKING:
    from corral.books.ledger import Ledger

State = Literal["queued", "prefill", "decode", "write"]
Outcome = Literal[
    "stop",
    "stop_sequence",
    "length",
    "tool_calls",
    "disconnected",
    "evicted",
    "stopped_by_operator",
    "deadline",
    "shutdown",
    "failed",
]

_OUTCOMES: Final[tuple[tuple[type[BaseException], Outcome], ...]] = (
    (errors.StoppedByOperator, "stopped_by_operator"),
    (errors.DeadlineExceeded, "deadline"),
    (errors.ShutDown, "shutdown"),
    (errors.Draining, "shutdown"),
    (errors.ClientTooSlow, "evicted"),
)


def outcome_of(error: BaseException) -> Outcome:
    """What an error that ended a request is called in the ledger."""
    return next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), "failed")


@dataclass(frozen=True, slots=True)
class About:
    """Who asked, and by which API: what the engine does not need to know. `address` is never a key."""

    id: str
    api: str
    model: str
    streams: bool
    address: str


@dataclass(slots=True)
class Waste:
    """Tokens computed for a client that had gone. Kept prefill serves the next request with its prefix."""

    decoded_after_cancel: int = 0
    prefill_dropped: int = 0
    prefill_kept: int = 0

    def add(self, other: "Waste | Released") -> None:
        self.decoded_after_cancel += other.decoded_after_cancel
        self.prefill_dropped += other.prefill_dropped
        self.prefill_kept += other.prefill_kept


class Record:
    """One request. `spent_s` holds the seconds in each state, up to the last change of state."""

    __slots__ = (
        "_accepted",
        "_done",
        "_draft",
        "_drafted",
        "_engine_state",
        "_finished",
        "_held",
        "_is_writing",
        "_ledger",
        "_released",
        "_since_s",
        "_texts",
        "_tokens",
        "about",
        "accepted_s",
        "cached_tokens",
        "ended_s",
        "first_token_s",
        "is_delivered",
        "is_over",
        "lanes",
        "max_tokens",
        "outcome",
        "position",
        "prefill_began_s",
        "prompt_tokens",
        "request",
        "spent_s",
        "started_at",
        "state",
        "wasted",
    )

    def __init__(
        self, ledger: "Ledger", about: About, request: GenerationRequest, prompt_tokens: int, max_tokens: int
    ) -> None:
        now_s = ledger.now_s()
        self.about = about
        self.request = request
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.started_at = time.time()
        self.accepted_s = self._since_s = now_s
        self.state: State = "queued"
        self.spent_s: dict[State, float] = {"queued": 0.0, "prefill": 0.0, "decode": 0.0, "write": 0.0}
        self.position: int | None = None
        """Its place in line; 0 is next, None is in the engine or past it."""
        self.lanes: tuple[int, ...] = ()
        """The slots it has, numbered for people: the lowest free ones when it began."""
        self.cached_tokens: int | None = None
        self.prefill_began_s = self.first_token_s = self.ended_s = None  # type: float | None
        self.outcome: Outcome | None = None
        self.wasted = Waste()
        self.is_delivered = False
        self.is_over = False
        self._ledger = ledger
        self._engine_state: State = "queued"
        self._is_writing = False
        self._held = 0
        self._released = 0
        self._done = [0] * request.n
        self._tokens = [0] * request.n
        self._drafted = self._accepted = 0
        self._draft: Sampled | None = None
        self._finished: dict[int, Finished] = {}
        self._texts: list[list[str]] | None = [[] for _ in range(request.n)] if ledger.keeps_content else None

    # What is known

    @property
    def prefilled_tokens(self) -> int:
        """Tokens of the prompt computed so far, mean over the choices; what was cached is not in it."""
        return max(0, sum(self._done) // len(self._done) - (self.cached_tokens or 0))

    @property
    def completion_tokens(self) -> int:
        """Sampled so far, all choices together."""
        return sum(self._tokens)

    @property
    def output(self) -> list[str] | None:
        """The text so far, by choice; None where content is not kept."""
        return None if self._texts is None else ["".join(texts) for texts in self._texts]

    @property
    def drafted_tokens(self) -> int | None:
        """Tokens that speculative decoding proposed, all choices together; None before the first token."""
        return None if self.first_token_s is None else self._drafted

    @property
    def accepted_tokens(self) -> int | None:
        return None if self.first_token_s is None else self._accepted

    @property
    def draft(self) -> Sampled | None:
        """The last step that had a draft; None where content is not kept."""
        return self._draft

    @property
    def engine_phase(self) -> Literal["prefill", "decode"] | None:
        """What the engine does for it; one that was cancelled is there until the engine has let go of it."""
        if self._released >= self._held:
            return None
        return "prefill" if self.first_token_s is None else "decode"

    @property
    def is_settled(self) -> bool:
        return self.is_over and self._released >= self._held

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_token_s is None else self.first_token_s - self.accepted_s

    @property
    def prefill_tokens_per_s(self) -> float | None:
        """Of the tokens really prefilled; 0 where the whole prompt was cached but for the last token."""
        if self.first_token_s is None or self.prefill_began_s is None:
            return None
        if self.prefilled_tokens <= 1:
            return 0.0
        return self.prefilled_tokens / max(1e-9, self.first_token_s - self.prefill_began_s)

    @property
    def decode_tokens_per_s(self) -> float | None:
        """After the first token, which is prefill's, until the engine ended or now."""
        if self.first_token_s is None:
            return None
        elapsed_s = (self._ledger.now_s() if self.ended_s is None else self.ended_s) - self.first_token_s
        tokens = self.completion_tokens - sum(tokens > 0 for tokens in self._tokens)
        return tokens / elapsed_s if tokens > 0 and elapsed_s > 0 else None

    def spent_now_s(self) -> dict[State, float]:
        """The seconds in each state up to now."""
        spent_s = dict(self.spent_s)
        if not self.is_over:
            spent_s[self.state] += self._ledger.now_s() - self._since_s
        return spent_s

    @property
    def total_s(self) -> float:
        return sum(self.spent_now_s().values())

    # What happens

    def admitted(self, sequences: int) -> None:
        """It has its slots."""
        self.position = None
        self.prefill_began_s = self._ledger.now_s()
        self._held = sequences
        self.lanes = self._ledger.take_lanes(sequences)
        self._enter("prefill")

    def observe(self, choice: int, events: list[Event]) -> None:
        """What the engine said in one step, before its client hears of it."""
        watcher = self._ledger.watcher
        for event in events:
            match event:
                case Sampled():
                    self._sampled(choice, event)
                case BlockDelta():
                    if self._texts is not None:
                        self._texts[choice].append(event.text)
                        if watcher is not None:
                            watcher.said(self, choice, event.text)
                case Prefill():
                    self._done[choice] = event.done
                case Started():
                    self._began(choice, event)
                case Queued():
                    self.position = event.position
                case Finished():
                    self._finished[choice] = event
                    if len(self._finished) == self.request.n:
                        self._engine_ended()
                case Failed():
                    self.ended_by(outcome_of(event.error))
        if watcher is not None:
            watcher.changed(self, at_once=False)

    def writing(self, is_writing: bool) -> None:
        """A write to the client is under way, or has been taken."""
        if is_writing is not self._is_writing:
            self._is_writing = is_writing
            self._enter(self._engine_state)

    def delivered(self) -> None:
        """The client has all of the answer, its end included."""
        self.is_delivered = True

    def ended_by(self, outcome: Outcome) -> None:
        """Something other than the model ended it. The first cause stays."""
        if self.outcome is None:
            self.outcome = outcome
        self._engine_ended()

    def over(self) -> None:
        """The response is over, however."""
        if self.is_over:
            return
        if self.outcome is None:
            whole = self.is_delivered and len(self._finished) == self.request.n
            self.outcome = self._finished[0].reason if whole else "disconnected"
        self._engine_ended()
        self.is_over = True
        self._ledger.settle_if_done(self)

    def released(self, released: Released) -> None:
        """The engine let go of one of its sequences."""
        self._ledger.give_lanes(self.lanes[self._released : self._released + 1])
        self._released += 1
        self.wasted.add(released)
        if (watcher := self._ledger.watcher) is not None:
            watcher.changed(self, at_once=True)
        self._ledger.settle_if_done(self)

    def _began(self, choice: int, event: Started) -> None:
        self._done[choice] = event.prompt_tokens
        # The prompt is counted once, as cached as it was for the sequence that found least of it.
        cached = event.cached_tokens
        self.cached_tokens = cached if self.cached_tokens is None else min(self.cached_tokens, cached)
        if self.first_token_s is None:
            self.first_token_s = self._ledger.now_s()
            self._enter("decode")

    def _sampled(self, choice: int, event: Sampled) -> None:
        self._tokens[choice] += event.tokens
        if not event.draft:
            return
        self._drafted += len(event.draft)
        self._accepted += event.accepted
        if self._ledger.keeps_content:
            self._draft = event
            if (watcher := self._ledger.watcher) is not None:
                watcher.drafted(self, choice, event)

    def _engine_ended(self) -> None:
        if self.ended_s is None:
            self.ended_s = self._ledger.now_s()
        self.position = None
        self._enter("write")

    def _enter(self, engine_state: State) -> None:
        if self.is_over:
            return
        now_s = self._ledger.now_s()
        self.spent_s[self.state] += now_s - self._since_s
        self._since_s = now_s
        moved = engine_state != self._engine_state
        self._engine_state = engine_state
        self.state = "write" if self._is_writing else engine_state
        if moved and (watcher := self._ledger.watcher) is not None:
            watcher.changed(self, at_once=True)

    @property
    def engine_state(self) -> State:
        """As `state`, but for a write that waits while the engine goes on."""
        return self._engine_state
