"""The figures of a request, over all its choices: tokens, and what of them was cached or guessed."""

from dataclasses import dataclass, field
from typing import Literal

from corral.events import BlockClosed, BlockKind, BlockOpened, Prefill, Sampled, Started, Usage

Doing = Literal["thinking", "calling", "embedding", "loading"]


@dataclass(slots=True)
class Counts:
    """One request of `choices` sequences, which all begin with the same prompt."""

    choices: int
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    reasoning_tokens: int = 0
    """Of those sampled so far, the thoughts."""
    calls: int = 0
    """Of tools, begun so far."""
    vectors: int = 0
    """Of inputs that are embedded, made so far."""
    _cached: dict[int, int] = field(default_factory=dict)
    _void: dict[int, int] = field(default_factory=dict)
    _open: dict[int, BlockKind] = field(default_factory=dict)
    _done: list[int] = field(init=False)
    _sampled: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._done = [0] * self.choices
        self._sampled = [0] * self.choices

    def prefilled(self, choice: int, event: Prefill) -> None:
        self._done[choice] = event.done
        self._cached[choice] = event.cached

    def started(self, choice: int, event: Started) -> None:
        self._done[choice] = event.prompt_tokens
        self._cached[choice] = event.cached_tokens

    def finished(self, choice: int, usage: Usage) -> None:
        """Only now do some upstreams say what they had cached."""
        self._cached[choice] = usage.cached_tokens

    def sampled(self, choice: int, event: Sampled) -> None:
        self._sampled[choice] += event.tokens
        self.drafted_tokens += len(event.draft)
        self.accepted_tokens += event.accepted
        self.reasoning_tokens += event.reasoning_tokens

    def taken_back(self, choice: int) -> None:
        """What was said of one choice was in vain, and counts only as computed."""
        self._void[choice] = self._sampled[choice]
        self._open.pop(choice, None)

    def opened(self, choice: int, event: BlockOpened) -> None:
        self._open[choice] = event.kind
        self.calls += event.kind == "tool"

    def closed(self, choice: int, event: BlockClosed) -> None:
        self._open.pop(choice, None)

    @property
    def doing(self) -> Doing | None:
        """What it says just now, if that is no text."""
        kinds = self._open.values()
        return "calling" if "tool" in kinds else "thinking" if "reasoning" in kinds else None

    @property
    def cached_tokens(self) -> int | None:
        """Of the prompt, those reused, as `Usage.of_choices` counts; None until the engine has said."""
        return min(self._cached.values(), default=None)

    def done_tokens(self, choice: int) -> int:
        """Of the prompt, those that are in the cache for one choice, computed or found there."""
        return self._done[choice]

    def said_tokens(self, choice: int) -> int:
        """Sampled so far for one choice, without what was taken back."""
        return self._sampled[choice] - self._void.get(choice, 0)

    @property
    def prefilled_tokens(self) -> int:
        """Of the prompt, those computed so far: the mean over the choices, without what was cached."""
        return max(0, sum(self._done) // self.choices - (self.cached_tokens or 0))

    @property
    def completion_tokens(self) -> int:
        """Sampled so far, all choices together."""
        return sum(self._sampled)

    @property
    def decoded_tokens(self) -> int:
        """As `completion_tokens`, but for each choice's first, which is the prefill's."""
        return self.completion_tokens - sum(tokens > 0 for tokens in self._sampled)
