"""The worker's record of a task that runs."""

from time import perf_counter

from corral.decoding import TextDecoder
from corral.engine.contract import Waste
from corral.engine.local.backend import Sampler
from corral.engine.local.lane import Lane
from corral.engine.local.task import Task
from corral.events import Finished, FinishReason, Started, Timings, TokenLogprob, Usage


class Running:
    """A task on the worker: its lane, its sampler, its text, its counts. Only the worker touches it."""

    def __init__(self, task: Task, lane: Lane, sampler: Sampler) -> None:
        self.task = task
        self.lane = lane
        self.sampler = sampler
        self.decoder = TextDecoder(task.stop, includes_stop=task.includes_stop)
        self.stop_token: int | None = None
        self.prompt_logprobs: list[TokenLogprob] = []
        """Of a prompt that is scored, as far as it is."""
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.aborted_tokens = 0
        self.submitted_s = perf_counter()
        self.first_token_s = 0.0
        self.last_token_s = 0.0

    def started(self) -> Started:
        """The prompt is in: note when, and how much of it had been there."""
        self.first_token_s = perf_counter()
        self.cached_tokens = self.lane.cached_tokens
        return Started(
            self.lane.prompt_tokens,
            self.cached_tokens,
            1e3 * (self.first_token_s - self.submitted_s),
            tuple(self.prompt_logprobs),
        )

    @property
    def tokens_left(self) -> int:
        """How many more tokens may be sampled."""
        return self.task.max_tokens - self.completion_tokens

    def finished(self, reason: FinishReason) -> Finished:
        """The last event of a task that ended as it should."""
        return Finished(
            reason=reason,
            stop_sequence=self.decoder.stopped,
            usage=Usage(
                prompt_tokens=self.lane.prompt_tokens,
                cached_tokens=self.cached_tokens,
                completion_tokens=self.completion_tokens,
            ),
            timings=Timings(
                prefill_ms=1e3 * (self.first_token_s - self.submitted_s),
                decode_ms=1e3 * (perf_counter() - self.first_token_s),
            ),
            stop_token=self.stop_token,
        )

    def released(self, cancelled_s: float | None) -> Waste:
        """What was in vain, if it was cancelled at `cancelled_s`."""
        if cancelled_s is None:
            return Waste()
        computed = self.lane.computed - self.lane.cached_tokens
        return Waste(
            decoded_after_cancel=int(self.last_token_s > cancelled_s),
            prefill_dropped=self.aborted_tokens,
            prefill_kept=max(0, computed) if self.completion_tokens == 0 else 0,
        )
