"""What the logits of a step say: tokens sampled, drafts verified, text, and ends."""

from collections.abc import Sequence
from time import perf_counter

from corral.engine.local.backend import Backend
from corral.engine.local.planner import Planner
from corral.engine.local.prompts.control import ControlTexts
from corral.engine.local.running import Running
from corral.events import Event, FinishReason, Sampled, TokenLogprob


class Readout:
    """Reads the last step of `backend`. A generation ends in the very step that produced its last token."""

    def __init__(self, backend: Backend, planner: Planner) -> None:
        self._backend = backend
        self._planner = planner
        self._pieces = backend.model.vocabulary.pieces
        self._end_tokens = backend.model.vocabulary.end_tokens
        vocabulary = backend.model.vocabulary
        texts = ControlTexts(vocabulary.control_texts, vocabulary.user_texts)
        self._controls = {token: text for text, token in texts.tokens.items()}

    def advance(self, running: Running, row: int, draft: Sequence[int]) -> tuple[list[Event], bool]:
        """Sample one token from `row`, then check the draft in the rows behind it while it holds.

        Returns what happened, and whether the task is over.
        """
        lane = running.lane
        told: list[Event] = [] if running.completion_tokens else [running.started()]
        said: list[Event] = []
        before = running.completion_tokens
        thought_before = running.decoder.reasoning_tokens
        reason: FinishReason | None = None
        accepted = 0
        for drafted in (*draft, None):
            token = running.pick(row + accepted)
            reason = self._take(running, token, row + accepted, said)
            if reason is not None or token != drafted:
                break
            accepted += 1
        if draft:
            self._planner.verified(lane, len(draft), accepted)
        pieces = tuple(self._pieces[token] for token in draft)
        thought = running.decoder.reasoning_tokens - thought_before
        told.append(Sampled(running.completion_tokens - before, pieces, accepted, thought))
        events = told + said
        if reason is None:
            return events, False
        finish = running.decoder.finish(reason)
        events += finish
        if running.transcript is not None:
            running.transcript.told(finish)
        if running.decoder.stopped is not None:  # what was held back ended in a stop string after all
            reason = "stop_sequence"
        events.append(running.finished(reason))
        return events, True

    def _take(self, running: Running, token: int, row: int, events: list[Event]) -> FinishReason | None:
        """Count one sampled token and say its text; why it is the last, if it is."""
        task, decoder = running.task, running.decoder
        running.completion_tokens += 1
        running.last_token_s = perf_counter()
        if task.is_last(token):
            running.stop_token = token
            return "stop"
        if token in self._end_tokens:
            return "stop"
        logprob: TokenLogprob | None = None
        if task.top_logprobs is not None:
            logprob = self._backend.logprobs(row, token, task.top_logprobs)
        piece, control = self._pieces[token], self._controls.get(token, "")
        if control and not decoder.knows(control) and (piece or task.shows_control):
            piece, control = control.encode(), ""
        fed = decoder.feed(piece, logprob, control)
        events += fed
        if running.transcript is not None:
            running.transcript.heard(piece, control, fed)
        if decoder.ended is not None:
            return decoder.ended
        if running.completion_tokens >= task.max_tokens:
            return "length"
        running.lane.tokens.append(token)
        running.heed_budget()
        return None
