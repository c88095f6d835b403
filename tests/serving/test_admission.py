"""The queue by itself: order, fairness, bounds, and that every permit comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.errors import QueueFull
from corral.serving.admission import Admission, Ticket


class Queue:
    """An Admission, and who was started in which order."""

    def __init__(self, slots: int, queue_limit: int = 100) -> None:
        self.admission = Admission(slots, queue_limit)
        self.started: list[str] = []
        self.positions: dict[str, list[int]] = {}

    def join(self, name: str, client: str = "", slots: int = 1) -> Ticket:
        moves = self.positions.setdefault(name, [])
        ticket = Ticket(slots, client or name, start=lambda: self.started.append(name), moved=moves.append)
        self.admission.check(slots, retry_after_s=7)
        self.admission.join(ticket)
        return ticket


def test_who_fits_starts_and_the_rest_wait_in_order_and_know_their_place() -> None:
    queue = Queue(slots=1)
    for name in "abc":
        queue.join(name)
    assert queue.started == ["a"]
    assert queue.positions == {"a": [], "b": [0], "c": [1]}
    queue.admission.release()
    assert queue.started == ["a", "b"]
    assert queue.positions["c"] == [1, 0]


def test_leaving_moves_the_others_up_and_costs_nobody_a_slot() -> None:
    queue = Queue(slots=1)
    queue.join("a")
    leaving = queue.join("b")
    queue.join("c")
    queue.admission.leave(leaving)
    queue.admission.leave(leaving)
    assert queue.positions["c"] == [1, 0]
    queue.admission.release()
    assert queue.started == ["a", "c"]


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    queue = Queue(slots=1, queue_limit=1)
    queue.join("a")
    queue.join("b")
    with pytest.raises(QueueFull) as caught:
        queue.join("c")
    assert caught.value.retry_after_s == 7
    assert len(queue.admission.waiting) == 1


def test_no_queue_at_all_still_serves_who_fits() -> None:
    queue = Queue(slots=1, queue_limit=0)
    queue.join("a")
    with pytest.raises(QueueFull):
        queue.join("b")


def test_one_client_with_many_requests_delays_another_by_one_turn() -> None:
    queue = Queue(slots=1)
    for number in range(4):
        queue.join(f"many {number}", client="many")
    queue.join("one", client="one")
    for _ in range(4):
        queue.admission.release()
    assert queue.started == ["many 0", "one", "many 1", "many 2", "many 3"]


def test_a_request_for_many_slots_is_not_starved_by_small_ones() -> None:
    queue = Queue(slots=2)
    queue.join("a")
    queue.join("wide", slots=2)
    queue.join("small")
    assert queue.started == ["a"], "a slot is free, but it is kept for the one in front"
    queue.admission.release()
    assert queue.started == ["a", "wide"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3), st.booleans()), max_size=30))
def test_everybody_is_served_once_and_all_permits_return(requests: list[tuple[str, int, bool]]) -> None:
    admission = Admission(3, 100)
    running: list[Ticket] = []
    tickets: list[Ticket] = []
    for client, slots, leaves in requests:
        ticket = Ticket(slots, client, start=lambda: None, moved=lambda _: None)
        ticket.start = lambda ticket=ticket: running.append(ticket)  # type: ignore[misc]
        tickets.append(ticket)
        admission.join(ticket)
        if leaves and ticket not in running:
            admission.leave(ticket)
            tickets.remove(ticket)
        assert sum(t.slots for t in running) + admission.free_slots == 3
    served: list[Ticket] = []
    while running:
        ticket = running.pop(0)
        served.append(ticket)
        for _ in range(ticket.slots):
            admission.release()
    assert sorted(map(id, served)) == sorted(map(id, tickets))
    assert admission.is_idle
