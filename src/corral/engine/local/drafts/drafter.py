"""Drafts for the sequences of a step: by looking up what each said before, else by a draft model."""

from collections.abc import Sequence

from corral.engine.local.drafts.lookup import draft_budget
from corral.engine.local.drafts.model import DraftModel
from corral.engine.local.scheduler import Sequence as Scheduled
from corral.engine.local.task import Running


class Drafter:
    """Not thread-safe: the worker owns it, and `model` with it."""

    def __init__(self, *, looks_up: bool, model: DraftModel | None) -> None:
        self._looks_up = looks_up
        self._model = model
        self._by_model: set[Scheduled] = set()

    def propose(self, decoding: Sequence[Running]) -> dict[Scheduled, list[int]]:
        """Drafts for those that decode, together as many tokens as a step of their number may carry.

        What a sequence said before is looked at first, since that costs nothing; then a draft model is asked.
        """
        self._by_model = set()
        drafts: dict[Scheduled, list[int]] = {}
        wants: dict[Scheduled, int] = {}
        budget = draft_budget(len(decoding))
        for running in decoding:
            limit = min(budget, running.tokens_left - 1)  # beside each draft a token of its own comes out
            if limit <= 0:
                continue
            if self._looks_up and (draft := running.lookup.propose(limit)):
                drafts[running.sequence] = draft
                budget -= len(draft)
            else:
                wants[running.sequence] = limit
        if self._model is not None and wants and budget >= len(wants):
            share = budget // len(wants)
            by_model = self._model.propose({own: min(limit, share) for own, limit in wants.items()})
            self._by_model = set(by_model)
            drafts |= by_model
        return drafts

    def observe(self, running: Running, drafted: int, accepted: int) -> None:
        """Count how many tokens of a draft were right, and learn from it."""
        running.drafted_tokens += drafted
        running.accepted_tokens += accepted
        if self._model is not None and running.sequence in self._by_model:
            self._model.observe(running.sequence, drafted, accepted)
        else:
            running.lookup.observe(drafted, accepted)

    def forget(self, sequence: Scheduled) -> None:
        """The sequence runs no more."""
        if self._model is not None:
            self._model.forget(sequence)
