"""The ledger on a clock of our own: every second is in one state, every request is settled once."""

from dataclasses import dataclass, field, replace
from functools import partial

import pytest

from corral.books.ledger import Ledger, Refusal, Tokens
from corral.books.outcome import outcome_of
from corral.books.record import About, Record
from corral.engine.contract import Waste
from corral.errors import (
    ContextExceeded,
    CorralError,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ShutDown,
    StoppedByOperator,
)
from corral.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Failed,
    Finished,
    FinishReason,
    Prefill,
    Queued,
    Sampled,
    Started,
    Usage,
)
from corral.request import GenerationRequest, Message
from corral.watching import views

ABOUT = About("a", "chat", "scripted", True, "127.0.0.1")
REQUEST = GenerationRequest((Message("user", "hello"),))


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Watching:
    """A watcher that writes down what it is told."""

    log: list[tuple[str, ...]] = field(default_factory=list)

    def changed(self, record: Record, *, at_once: bool) -> None:
        self.log.append(("changed", record.about.id, record.life.engine_state if at_once else "counters"))

    def said(self, record: Record, choice: int, number: int, text: str) -> None:
        self.log.append(("said", record.about.id, str(choice), str(number), text))

    def drafted(self, record: Record, choice: int, step: Sampled) -> None:
        self.log.append(("drafted", record.about.id, str(choice), f"{step.accepted} of {len(step.draft)}"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(clock: Clock) -> Ledger:
    return Ledger(now_s=clock)


@pytest.fixture
def settled(ledger: Ledger) -> list[Record]:
    records: list[Record] = []
    ledger.on_settled.append(records.append)
    return records


def accept(ledger: Ledger, id: str = "a", *, n: int = 1) -> Record:
    about = replace(ABOUT, id=id)
    record = ledger.accept(about, GenerationRequest(REQUEST.messages, n=n))
    record.prepared(10, 100)
    return record


def finished(reason: FinishReason = "stop", tokens: int = 3, *, cached: int = 0) -> Finished:
    return Finished(reason, None, Usage(10, cached, tokens))


def test_the_times_in_the_states_add_up_to_the_whole(clock: Clock, ledger: Ledger) -> None:
    record = ledger.accept(ABOUT, REQUEST)
    clock.now_s += 0.5
    record.prepared(10, 100)
    clock.now_s += 1
    record.observe(0, [Queued(0)])
    record.writing(True)
    clock.now_s += 0.25  # a keepalive that the client is slow to take, while it waits for a slot
    record.writing(False)
    clock.now_s += 1
    record.admitted()
    clock.now_s += 2
    record.observe(0, [Prefill(4, 10, 2)])
    clock.now_s += 2
    record.observe(0, [Started(10, 2), Sampled(1), BlockDelta(0, "x")])
    clock.now_s += 4
    record.observe(0, [Sampled(1)])  # no text yet
    record.observe(0, [Sampled(1), BlockDelta(0, "y")])
    record.writing(True)
    clock.now_s += 0.5
    record.observe(0, [finished(tokens=3, cached=2)])
    clock.now_s += 8
    record.writing(False)
    record.delivered()
    clock.now_s += 0.125
    record.released(Waste())
    record.over()
    assert record.life.spent_s() == {
        "preparing": 0.5,
        "queued": 2,
        "prefill": 4,
        "decode": 4,
        "write": 0.25 + 0.5 + 8 + 0.125,
    }
    assert record.life.total_s == sum(record.life.spent_s().values()) == clock.now_s - record.life.began_s
    assert record.life.ttft_s == 6.75
    assert record.prefill_tokens_per_s == 8 / 4, "two of the ten were cached"
    assert record.decode_tokens_per_s == 2 / 4.5, "a slow client changes nothing"
    row = views.row(record)
    parts = row.preparing_ms + row.queue_ms + row.prefill_ms + row.decode_ms + row.blocked_write_ms
    assert parts == pytest.approx(row.total_ms, rel=0.01)


def test_a_running_requests_times_add_up_too(clock: Clock, ledger: Ledger) -> None:
    record = accept(ledger)
    record.admitted()
    clock.now_s += 3
    assert record.life.spent_s()["prefill"] == record.life.total_s == 3
    counted = views.counters(record)
    assert (counted.prefill_ms, counted.total_ms, counted.state) == (3000, 3000, "prefill")


def test_a_request_is_settled_once_response_and_engine_are_done_with_it_in_either_order(
    ledger: Ledger, settled: list[Record]
) -> None:
    for id, release_first in (("a", True), ("b", False)):
        record = accept(ledger, id, n=2)
        record.admitted()
        assert record.lanes == (0, 1)
        parts = [partial(record.released, Waste(1, 2, 3)), partial(record.released, Waste())]
        parts.insert(len(parts) if release_first else 0, partial(record.over))
        for part in parts:
            assert id in ledger.live
            part()
        assert id not in ledger.live
        record.over()
        record.ended_by("failed")
    assert [record.about.id for record in settled] == ["a", "b"]
    assert [record.outcome for record in settled] == ["disconnected", "disconnected"]
    assert ledger.totals.by_outcome == {("chat", "disconnected"): 2}
    waste = ledger.totals.wasted["disconnected"]
    assert (waste.decoded_after_cancel, waste.prefill_dropped, waste.prefill_kept) == (2, 4, 6)


def test_who_waits_in_the_queue_is_settled_without_the_engine(ledger: Ledger, settled: list[Record]) -> None:
    record = accept(ledger)
    record.observe(0, [Queued(3)])
    assert record.position == 3
    record.over()
    assert settled == [record]
    assert record.lanes == ()
    assert record.engine_phase is None


@pytest.mark.parametrize("is_delivered", [True, False])
def test_an_answer_that_did_not_get_through_is_a_disconnect(
    ledger: Ledger, settled: list[Record], is_delivered: bool
) -> None:
    record = accept(ledger)
    record.admitted()
    record.observe(0, [Started(10, 0), BlockDelta(0, "x"), finished("length")])
    record.released(Waste())
    if is_delivered:
        record.delivered()
    record.over()
    assert [r.outcome for r in settled] == ["length" if is_delivered else "disconnected"]


def test_the_first_cause_of_an_end_is_the_outcome(ledger: Ledger, settled: list[Record]) -> None:
    record = accept(ledger)
    record.observe(0, [Failed(StoppedByOperator("stop"))])
    record.observe(0, [Failed(ShutDown("later"))])
    record.ended_by("evicted")
    record.over()
    assert [(r.outcome, r.error) for r in settled] == [("stopped_by_operator", "stopped_by_operator")]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StoppedByOperator(""), "stopped_by_operator"),
        (DeadlineExceeded(""), "deadline"),
        (ShutDown(""), "shutdown"),
        (InvalidRequest(""), "refused"),
        (ContextExceeded("", prompt_tokens=2, limit_tokens=1), "refused"),
        (EngineFailed(""), "failed"),
        (CorralError(""), "failed"),
        (KeyError(), "failed"),
    ],
)
def test_errors_have_an_outcome(error: Exception, outcome: str) -> None:
    assert outcome_of(error) == outcome


def test_choices_are_counted_together_and_the_prompt_once(ledger: Ledger) -> None:
    record = accept(ledger, n=2)
    record.admitted()
    record.observe(0, [Started(10, 4), Sampled(1), BlockDelta(0, "x")])
    record.observe(1, [Started(10, 9), Sampled(1), BlockDelta(0, "y")])
    counts = record.counts
    assert (counts.cached_tokens, counts.prefilled_tokens, counts.completion_tokens) == (4, 6, 2)
    record.observe(1, [Sampled(6, draft=(b"a", b"b"), accepted=1), finished("length", 7, cached=9)])
    assert (counts.completion_tokens, counts.drafted_tokens, counts.accepted_tokens) == (8, 2, 1)
    assert record.life.engine_state == "decode"
    record.observe(0, [Sampled(4), finished("stop", 5, cached=4)])
    assert (record.counts.completion_tokens, record.life.engine_state) == (12, "write")


def test_a_prompt_that_was_cached_has_no_prefill_speed(clock: Clock, ledger: Ledger) -> None:
    record = accept(ledger)
    record.admitted()
    clock.now_s += 0.01
    record.observe(0, [Started(10, 9)])
    assert record.prefill_tokens_per_s == 0
    assert record.decode_tokens_per_s is None


def test_content_is_kept_only_where_it_is_shown(clock: Clock) -> None:
    for keeps in (True, False):
        record = accept(Ledger(keeps_content=keeps, now_s=clock))
        record.observe(0, [Sampled(2, (b"x", b"\xf0\x9f"), 1), BlockOpened(0, "reasoning")])
        record.observe(0, [BlockDelta(0, "so"), BlockDelta(0, "me"), BlockClosed(0)])
        record.observe(0, [BlockOpened(1, "tool", "call_1", "look"), BlockDelta(1, "{}")])
        assert (record.output is not None) is keeps
        shown = views.request(record, with_content=True)
        output = [[views.Said("some", "reasoning"), views.Said("{}", "tool", "look")]]
        assert shown.output == (output if keeps else None)
        assert (shown.messages is not None) is keeps
        assert shown.draft == (views.LastDraft(("x", "\ufffd"), 1) if keeps else None)
        hidden = views.request(record, with_content=False)
        assert (hidden.output, hidden.messages, hidden.draft) == (None, None, None)


def test_a_watcher_hears_of_states_at_once_and_of_text(clock: Clock) -> None:
    ledger = Ledger(keeps_content=True, now_s=clock)
    watching = ledger.watcher = Watching()
    record = accept(ledger)
    record.admitted()
    record.observe(0, [Started(10, 0), Sampled(1), BlockOpened(0, "text"), BlockDelta(0, "x")])
    record.observe(0, [Sampled(2, (b"y",), 1), finished()])
    record.released(Waste())
    record.over()
    assert watching.log == [
        ("changed", "a", "preparing"),
        ("changed", "a", "queued"),
        ("changed", "a", "prefill"),
        ("changed", "a", "decode"),
        ("said", "a", "0", "0", "x"),
        ("changed", "a", "counters"),
        ("drafted", "a", "0", "1 of 1"),
        ("changed", "a", "write"),
        ("changed", "a", "counters"),
        ("changed", "a", "write"),
    ]


def test_what_is_refused_is_counted_by_status_and_code_and_told(ledger: Ledger) -> None:
    told: list[Refusal] = []
    ledger.on_refused.append(told.append)
    refusal = Refusal("req_1", "127.0.0.1", "POST", "/v1/x", 400, "invalid_request", "n")
    for each in (refusal, refusal, Refusal("req_2", "", "GET", "/", 404, "not_found", None)):
        ledger.refuse(each)
    assert ledger.live == {}
    assert ledger.totals.refused == {(400, "invalid_request"): 2, (404, "not_found"): 1}
    assert told[0] is refusal


def test_closing_settles_what_the_engine_can_say_no_more_about(ledger: Ledger, settled: list[Record]) -> None:
    accept(ledger, "a").admitted()
    accept(ledger, "b")
    ledger.close()
    assert [(r.about.id, r.outcome) for r in settled] == [("a", "shutdown"), ("b", "shutdown")]
    assert ledger.live == {}


def test_tokens_are_counted_while_their_request_runs_and_once(clock: Clock, ledger: Ledger) -> None:
    record = ledger.accept(ABOUT, REQUEST)
    record.prepared(10, 100)
    record.admitted()
    record.observe(0, [Prefill(4, 10, 2)])
    assert ledger.tokens == Tokens(prompt=10, cached=2, prefilled=2)
    record.observe(0, [Started(10, 2), Sampled(1), Sampled(2)])
    running = ledger.tokens
    assert running == Tokens(prompt=10, cached=2, prefilled=8, completion=3)
    record.over()
    record.released(Waste())
    assert not ledger.live
    assert ledger.tokens == ledger.totals.tokens == running
