"""From who runs to the next step, and from its time to what is known of costs: no clock, no model, no thread.

    step = planner.plan(running)             # what `take_operations` gives is to be done before it
    planner.computed(step, elapsed_ms)       # or planner.aborted(step, elapsed_ms)
    planner.verified(lane, drafted, accepted)    # of each draft in it, once its tokens are known

The worker does the steps with a model; tools/lab does them in virtual time, against a curve of costs.
"""

from collections.abc import Mapping
from typing import Protocol

from corral.engine.local.backend import CacheShape
from corral.engine.local.cache.cache import CacheBooks, KeepOptions
from corral.engine.local.costs import Costs
from corral.engine.local.drafts.drafter import Drafter
from corral.engine.local.lane import Lane
from corral.engine.local.options import EngineOptions
from corral.engine.local.pace import Load, Pace
from corral.engine.local.scheduler import Scheduler, Step

CHUNK_TOKENS = 128
"""Of a prompt, where its steps may depend on nothing else; from 64 on, chunks of any width are computed by
the same kernels (docs/determinism.md)."""

KEPT_SHARE = 4  # prefixes of ended tasks may hold one in so many tokens of a context


class Generating(Protocol):
    """Somebody who runs."""

    @property
    def lane(self) -> Lane: ...

    @property
    def tokens_left(self) -> int:
        """How many more tokens may be sampled."""
        ...

    @property
    def can_be_forced(self) -> bool:
        """Whether it may be certain what comes next."""
        ...

    def fitting(self, draft: list[int]) -> list[int]:
        """As much of a draft as may come next."""
        ...


def open_scheduler(
    shape: CacheShape, options: EngineOptions, costs: Costs, *, batch_tokens: int, batch_rows: int
) -> Scheduler:
    """A scheduler over an empty cache; its steps have at most so many tokens and rows of logits."""
    chunk_tokens = CHUNK_TOKENS if options.deterministic else 0
    keep = KeepOptions(
        # Where a memory cannot be cut, what was computed cannot be brought to the end of a chunk.
        reuses_prefixes=options.prefix_reuse and (shape.can_cut or not options.deterministic),
        chunk_tokens=chunk_tokens,
        kept_tokens=min(shape.ctx_tokens, shape.sequence_ctx_tokens) // KEPT_SHARE,
        saved_tokens=options.host_cache_bytes // shape.token_bytes,
    )
    return Scheduler(CacheBooks(shape, keep, costs), batch_tokens, batch_rows, chunk_tokens)


def open_pace(options: EngineOptions, *, batch_tokens: int) -> Pace:
    """A pace that has learned nothing yet."""
    return Pace(options.promise, batch_tokens)


class Planner:
    """Asks the pace, the drafter and the scheduler, in this order, and tells them what became of it."""

    def __init__(self, scheduler: Scheduler, pace: Pace, drafter: Drafter) -> None:
        self.load = Load(0, 0, 0)
        """What waited when the last step was planned."""
        self._scheduler = scheduler
        self._pace = pace
        self._drafter = drafter

    def plan(self, running: Mapping[int, Generating]) -> Step:
        """The next step of those who run, by their lanes' keys; it is empty if nobody does."""
        load = self.load = self._scheduler.load()
        budget = self._pace.prefill_tokens(load) if load.prefilling else 0
        if not budget:
            return self._scheduler.plan(0, self._propose(running, load.decode_depth))
        return self._scheduler.plan(budget, least_chunk=self._pace.full_speed_tokens)

    def expected_ms(self, step: Step) -> float:
        """How long a step that was planned is likely to take."""
        costs = self._pace.costs
        return (costs.prefill_ms if step.is_prefill else costs.step_ms)(step.tokens, step.depth)

    def computed(self, step: Step, elapsed_ms: float) -> None:
        """A step was computed in so long: it is in the cache, and something was learned."""
        if step.is_prefill:
            self._pace.observe_prefill(step.tokens, step.depth, elapsed_ms)
        else:
            self._pace.observe_decode(step.tokens, step.depth, elapsed_ms)
        self._scheduler.commit(step)

    def aborted(self, step: Step, elapsed_ms: float) -> None:
        """A step was cut short after so long: it is as if it had not been, but for the time."""
        if step.is_prefill:
            self._pace.observe_aborted(elapsed_ms)

    def verified(self, lane: Lane, drafted: int, accepted: int) -> None:
        """Of a draft of `drafted` tokens the first `accepted` were right; the others leave the cache."""
        self._drafter.observe(lane, drafted, accepted)
        if accepted < drafted:
            self._scheduler.cache.cut(lane, lane.computed - drafted + accepted)

    def _propose(self, running: Mapping[int, Generating], depth: float) -> dict[Lane, list[int]]:
        """Drafts, if the next step may carry any.

        None beside a prefill: a wider step makes every stream wait longer for its next token, and the prompt
        for its next turn.
        """
        if not self._scheduler.cache.shape.can_cut or self.load.has_begun_prompts:
            return {}
        if not self._drafter.can_pay(self.load.decoding, depth) and not any(
            one.can_be_forced for one in running.values()
        ):
            return {}
        wants = {
            one.lane: one.tokens_left - 1  # beside each draft a token of its own comes out
            for one in running.values()
            if one.lane.is_decoding
        }
        drafts = self._drafter.propose(wants, depth)
        return {
            lane: fitting for lane, draft in drafts.items() if (fitting := running[lane.key].fitting(draft))
        }
