"""How full the server is and was, on a clock of the test's, over an engine without a model."""

import pytest
from tests.engine.tales import TaleEngine

from corral.books.ledger import Ledger, Refusal
from corral.books.record import About, Record
from corral.engine.contract import Waste
from corral.events import Sampled, Started
from corral.request import GenerationRequest
from corral.serving.models import Models
from corral.serving.service import Service, ServiceOptions
from corral.watching.load import BUCKETS, MOST_ENDS, Load, percentile

REQUEST = GenerationRequest()
REFUSAL = Refusal("req_1", "127.0.0.1", "POST", "/v1/chat/completions", 400, "invalid_request", "tools")


class Room:
    """A ledger with a clock, and a load that looks at it every second."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.ledger = Ledger(now_s=lambda: self.now_s, unix_s=lambda: self.now_s)
        self.load = Load(Models.of_one("m", Service(TaleEngine(), ServiceOptions(), self.ledger)))
        self.ledger.on_settled.append(self.load.settled)
        self.ledger.on_refused.append(self.load.refused)

    def second(self, record: Record | None = None, tokens: int = 0) -> None:
        """A second passes, in which a request says so many tokens."""
        self.now_s += 1
        if record is not None:
            record.observe(0, [Sampled(tokens)])
        self.load.look()

    def started(self, number: int = 0) -> Record:
        record = self.ledger.accept(About(f"a{number}", "chat", "m", streams=True, address=""), REQUEST)
        record.prepared(10, 100)
        record.admitted()
        record.observe(0, [Started(10, 4)])
        return record

    def ended(self, record: Record) -> None:
        record.over()
        record.released(Waste())


def test_speeds_are_those_of_the_last_two_seconds() -> None:
    room = Room()
    record = room.started()
    for tokens in (100, 100, 7, 13):
        room.second(record, tokens)
    assert room.load.speeds.decode == 10
    for _ in range(2):
        room.second()
    assert (room.load.speeds.decode, room.load.speeds.prefill) == (0, 0)


def test_a_prompt_that_is_computed_shows_as_tokens_in() -> None:
    room = Room()
    room.second()
    room.second()
    room.started()
    room.second()
    assert room.load.speeds.prefill == 3, "six of ten were computed, in two seconds"


def test_ten_seconds_make_a_bucket_with_what_happened_in_them() -> None:
    room = Room()
    told: list[object] = []
    room.load.on_bucket.append(told.append)
    record = room.started()
    for _ in range(4):
        room.second(record, 5)
    room.ended(record)
    room.ledger.refuse(REFUSAL)
    for _ in range(6):
        room.second()
    columns = room.load.hour.columns
    assert len(told) == 1
    assert columns["at"] == [1010]
    assert columns["decode_tok_s"] == [2.0]
    assert columns["refused"] == [1]
    assert columns["ended"] == [1]
    assert columns["queue_ms_p95"] == [0]
    assert columns["stream_tok_s_p50"] == [4.8], "19 tokens after the first, in 4 seconds"


@pytest.mark.parametrize("column", ["ttft_ms_p50", "queue_ms_p95", "stream_tok_s_p5"])
def test_of_seconds_in_which_nothing_ended_nothing_is_said(column: str) -> None:
    room = Room()
    for _ in range(10):
        room.second()
    assert room.load.hour.columns[column] == [None]


def test_an_hour_is_kept_and_no_more_however_much_happens() -> None:
    room = Room()
    for number in range(3 * MOST_ENDS):
        room.ended(room.started(number))
    assert len(room.load._gathering.ttft_ms.numbers) == MOST_ENDS
    for _ in range(10 * (BUCKETS + 3)):
        room.second()
    assert {len(column) for column in room.load.hour.columns.values()} == {BUCKETS}
    assert room.load.hour.columns["at"][-1] == round(room.now_s)


@pytest.mark.parametrize(
    ("numbers", "share", "expected"),
    [([], 0.5, None), ([3.0], 0.95, 3.0), ([4, 1, 3, 2], 0.5, 2), (list(range(1, 101)), 0.95, 95)],
)
def test_a_percentile_is_one_of_the_numbers(
    numbers: list[float], share: float, expected: float | None
) -> None:
    assert percentile(numbers, share) == expected
