"""One try of one sequence at one replica: asked, heard out, and seen off where its client has left."""

from contextlib import closing, suppress
from typing import Final

import trio

from corral.engine.contract import Waste
from corral.engine.upstream.answer import Answer
from corral.engine.upstream.ask import body_of, check, path_of
from corral.engine.upstream.continuing import Heard, Joint, NotContinued, Rest
from corral.engine.upstream.events import EVENT_BYTES, EventReader, EventTooLarge
from corral.engine.upstream.exchange import Ask, Exchange, Head
from corral.engine.upstream.faults import Fault, broken, fault_of_answer, hidden, prompt_param
from corral.engine.upstream.fleet import EXPECTED_TOKENS, Fleet
from corral.engine.upstream.measure import Measure
from corral.engine.upstream.replica import OUTPUT_WEIGHT, Lease, Replica
from corral.engine.upstream.sequence import UpstreamSequence
from corral.errors import InvalidRequest
from corral.events import Event, Finished, Placed, Prefill
from corral.request import GenerationRequest

ERROR_BYTES: Final = 64 * 1024
GOODBYE_S: Final = 0.5
"""How long the end of a connection is waited for, once the answer is whole."""
ANSWER_BYTES: Final = 2**28
"""Of one answer on the wire, at most."""
OVER: Final = 16
"""Tokens past its limit at which an upstream is taken not to keep it."""
NO_SUCH_API: Final = (404, 405, 501)
"""Said to a completion: not every server has those, and one without is none the worse."""
CHUNKS: Final = 16
"""Into which a token may be cut by who does not say how many tokens a chunk has."""


class Attempt:
    """One try of one sequence at one replica: of the whole answer, or of the rest of one that broke off."""

    def __init__(
        self,
        sequence: UpstreamSequence,
        fleet: Fleet,
        measure: Measure,
        silence_s: float,
        rest: Rest | None = None,
        *,
        keeps_text: bool,
    ) -> None:
        """`measure` learns how long the prompt was. `silence_s` may pass without a word; 0: no limit. What is
        to be gone on with elsewhere has its text kept."""
        self.lease: Lease | None = None
        self.rest = rest
        self.heard = Heard(keeps_text=keeps_text)
        """What its client was told by it."""
        self._sequence = sequence
        self._fleet = fleet
        self._measure = measure
        self._silence_s = silence_s
        prepared = sequence.prepared
        self._request = prepared.request if rest is None else rest.request
        self._max_tokens = sequence.max_tokens if rest is None else rest.max_tokens
        self._wanted = prepared.wanted if rest is None else rest.wanted(prepared.wanted)
        self._answer = Answer(self._request, self._wanted.prompt_tokens)
        self._joint: Joint | None = None
        self._said = 0

    @property
    def has_begun(self) -> bool:
        """Whether something of the answer was heard."""
        return self._answer.has_begun

    @property
    def has_ended(self) -> bool:
        """Whether the answer has said why it ended, so that nothing may follow."""
        return self._answer.has_ended

    async def made(self, without: Replica | None) -> Waste:
        """Make it; what of it was in vain. Raises Fault."""
        sequence = self._sequence
        with sequence.enter(trio.CancelScope()):
            replica, work = await self._fleet.place(self._wanted, without=without)
        if sequence.is_cancelled:
            return Waste()
        with replica.lease(work) as self.lease:
            sequence.tell([Placed(replica.name)])
            if self.rest is not None:
                self._joint = Joint(self.rest.heard, replica.name)
            scope = self.lease.scope
            scope.deadline = self._deadline_s()
            with sequence.enter(scope), closing(replica.exchange()) as exchange:
                await self._heard_out(replica, exchange)
                return Waste()
            if sequence.is_over:  # only the end of the connection did not come
                return Waste()
            if not sequence.is_cancelled:
                if self.has_ended:
                    self._end()
                    return Waste()
                raise broken("does not answer any more" if self.lease.cut else "said nothing for too long")
            if not self.lease.asked:
                return Waste()
            self.lease.asked = False  # from now on what is computed for it is for nobody
            await replica.abort(sequence.id)
            return Waste(residual_s=await replica.residue.gone())

    async def _heard_out(self, replica: Replica, exchange: Exchange) -> None:
        """Ask, and tell what is answered until that is whole. Raises Fault."""
        sequence = self._sequence
        request = self._request
        _check(request, replica)
        is_limited = request.max_tokens is not None or sequence.max_tokens < sequence.prepared.max_tokens
        body = body_of(
            request,
            replica.kind,
            model=replica.model,
            choice=sequence.choice,
            max_tokens=self._max_tokens if is_limited else None,
            id=sequence.id,
        )
        assert self.lease is not None
        self.lease.asked = True
        id = sequence.id if replica.kind.takes_request_id else ""
        head = await exchange.ask(Ask(path_of(request), replica.upstream.key, body, id, "text/event-stream"))
        if request.prompt is not None and head.status in NO_SUCH_API:
            replica.lacks_completions()
            _check(request, replica)
        await self._check(head, exchange)
        reader, size = EventReader(EVENT_BYTES), 0
        while not self._answer.is_over and (piece := await self._received(exchange)):
            size += len(piece)
            if size > ANSWER_BYTES:
                raise broken("sent more than an answer can be")
            try:
                frames = reader.feed(piece)
            except EventTooLarge:
                raise broken("sent an event that is too large") from None
            events: list[Event] = []
            try:
                for frame in frames:
                    events += self._answer.feed(frame)
            finally:  # what came before an error was said
                self._heard(events, is_limited)
        if not size and replica.kind.hides_errors:
            raise hidden()
        self._end()
        replica.succeeded()
        with trio.move_on_after(GOODBYE_S), suppress(Fault):
            while await exchange.receive():
                pass

    async def _received(self, exchange: Exchange) -> bytes:
        """The next piece; none where it broke off behind the end of its answer, which is whole then."""
        try:
            return await exchange.receive()
        except Fault:
            if self.has_ended:
                return b""
            raise

    def _end(self) -> None:
        """Tell the end. Raises Fault if there was none."""
        events = self._answer.end()
        finished = events[-1]
        assert isinstance(finished, Finished)
        self._measure.learn(self._wanted.prompt_bytes, finished.usage.prompt_tokens)
        self._tell(events)

    async def _check(self, head: Head, exchange: Exchange) -> None:
        if head.status != 200:
            body = await exchange.body(ERROR_BYTES)
            param = prompt_param(self._request)
            raise fault_of_answer(head.status, body, head.headers.get("retry-after", ""), param=param)
        if head.media_type != "text/event-stream":
            raise broken("answered with something else than the stream that it was asked for")

    def _heard(self, events: list[Event], is_limited: bool) -> None:
        """Some of the stream has come, though perhaps nothing to be told."""
        lease, answer = self.lease, self._answer
        assert lease is not None
        lease.replica.heard()
        if answer.said > self._said:  # else it may go on like that for ever
            self._said = answer.said
            lease.scope.deadline = self._deadline_s()
        most_tokens = self._max_tokens + OVER
        if is_limited and answer.sampled_tokens > most_tokens * (1 if answer.counts_tokens else CHUNKS):
            raise broken("went on past the limit of the answer")
        wanted = self._wanted
        left_output = max(0, min(wanted.output_tokens, EXPECTED_TOKENS) - answer.sampled_tokens)
        left = OUTPUT_WEIGHT * left_output
        if not answer.has_begun:
            prefill = next((event for event in reversed(events) if isinstance(event, Prefill)), None)
            left += wanted.prompt_tokens if prefill is None else prefill.total - prefill.done
        lease.heard(left)
        if events:
            self._tell(events)

    def _tell(self, events: list[Event]) -> None:
        """Raises Fault for the rest of an answer that is none."""
        if self._joint is not None:
            try:
                events = self._joint.joined(events)
            except NotContinued:
                raise broken("began something else instead of going on") from None
        else:
            self.heard.feed(events, knows_prompt=self._answer.knows_prompt)
        if events:
            self._sequence.tell(events)

    def _deadline_s(self) -> float:
        """Until when the next word has to come."""
        return trio.current_time() + self._silence_s if self._silence_s else float("inf")


def _check(request: GenerationRequest, replica: Replica) -> None:
    """What it is may have become known only after the request was checked. Raises Fault."""
    try:
        check(request, replica.kind)
    except InvalidRequest as error:
        raise Fault(error, blames=False) from None
