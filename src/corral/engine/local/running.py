"""The worker's record of a task that runs."""

import secrets
from collections import deque
from time import perf_counter

from corral.decoding.answer import AnswerDecoder
from corral.decoding.text import TextDecoder
from corral.engine.contract import Waste
from corral.engine.local.backend import Sampler
from corral.engine.local.lane import Lane
from corral.engine.local.replays import Transcript
from corral.engine.local.task import Task
from corral.events import Finished, FinishReason, Started, TokenLogprob, Usage


class Running:
    """A task on the worker: its lane, its sampler, its text, its counts. Only the worker touches it."""

    def __init__(self, task: Task, lane: Lane, sampler: Sampler) -> None:
        self.task = task
        self.lane = lane
        self.sampler = sampler
        self.decoder = _decoder(task)
        self.is_thought_cut = False
        self.transcript = Transcript() if task.replays is not None else None
        self._mask = task.constraint.start() if task.constraint is not None else None
        self._forced: deque[int] = deque()
        self.stop_token: int | None = None
        self.prompt_logprobs: list[TokenLogprob] = []
        """Of a prompt that is scored, as far as it is."""
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.aborted_tokens = 0
        self.submitted_s = perf_counter()
        self.last_token_s = 0.0

    def started(self) -> Started:
        """The prompt is in: note how much of it had been there."""
        self.cached_tokens = self.lane.cached_tokens
        return Started(
            self.lane.prompt_tokens,
            self.cached_tokens,
            1e3 * (perf_counter() - self.submitted_s),
            tuple(self.prompt_logprobs),
            self.lane.found,
        )

    def pick(self, row: int) -> int:
        """The next token, from a row of logits. Raises EngineFailed where the grammar cannot be followed."""
        if self._forced:
            return self._forced.popleft()
        if self._mask is None:
            return self.sampler.sample(row)
        if self.decoder.is_thinking:
            token = self.sampler.sample(row)
            limit = self.task.thought
            if limit is None or token not in limit.ends or self._mask.allowed[token]:
                return token
            self._forced.extend(limit.closer)  # what it has to say is still to come
            return self._forced.popleft()
        token = self.sampler.sample(row, self._mask.allowed)
        self._mask.accept(token)
        return token

    @property
    def can_be_forced(self) -> bool:
        """Whether it may be certain what comes next."""
        return self._mask is not None or bool(self._forced)

    def certain(self) -> list[int]:
        """The tokens that must come next; often none."""
        if self._forced:
            return list(self._forced)
        return [] if self._mask is None or self.decoder.is_thinking else self._mask.forced()

    def fitting(self, draft: list[int]) -> list[int]:
        """As much of a draft as may come next."""
        if self._forced:
            return [token for token, forced in zip(draft, self._forced, strict=False) if token == forced]
        return draft if self._mask is None or self.decoder.is_thinking else self._mask.fitting(draft)

    def heed_budget(self) -> None:
        """Have the thought end if its budget is spent."""
        limit = self.task.thought
        if (
            limit is not None
            and limit.tokens is not None
            and self.decoder.is_thinking
            and self.decoder.thinking_tokens >= limit.tokens
        ):
            self.end_thought()

    def end_thought(self) -> None:
        """Say what ends the thought, if there is one; the answer follows."""
        if self.task.thought is not None and self.decoder.is_thinking and not self._forced:
            self.is_thought_cut = True
            self._forced.extend(self.task.thought.closer)

    @property
    def tokens_left(self) -> int:
        """How many more tokens may be sampled."""
        return self.task.max_tokens - self.completion_tokens

    def finished(self, reason: FinishReason) -> Finished:
        """The last event of a task that ended as it should."""
        if reason == "stop" and self.decoder.calls:
            reason = "tool_calls"
        if reason == "tool_calls" and self.transcript is not None and self.task.replays is not None:
            self.task.replays.keep(self.transcript)
        return Finished(
            reason=reason,
            stop_sequence=self.decoder.stopped,
            usage=Usage(
                prompt_tokens=self.lane.prompt_tokens,
                cached_tokens=self.cached_tokens,
                completion_tokens=self.completion_tokens,
                reasoning_tokens=self.decoder.reasoning_tokens,
            ),
            stop_token=self.stop_token,
            is_thought_cut=self.is_thought_cut,
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


def _decoder(task: Task) -> AnswerDecoder | TextDecoder:
    if task.form is None:
        return TextDecoder(task.stop, includes_stop=task.includes_stop)
    return task.form.decoder(task.stop, includes_stop=task.includes_stop, new_id=new_call_id)


def new_call_id() -> str:
    """An id for a call, as good as unique."""
    return f"call_{secrets.token_hex(12)}"
