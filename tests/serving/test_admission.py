"""The queue by itself: order, fairness, bounds, what it remembers, and that every permit comes back."""

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.errors import QueueFull
from corral.serving import admission as module
from corral.serving.admission import OVERTAKES, Admission, Ticket


class Queue:
    """An Admission, who was started in which order, and who still runs."""

    def __init__(self, slots: int, queue_limit: int = 100) -> None:
        self.admission = Admission(slots, queue_limit)
        self.started: list[str] = []
        self.running: list[Ticket] = []
        self.positions: dict[str, list[int]] = {}
        self.warm: set[str] = set()

    def join(self, name: str, client: str = "", slots: int = 1, priority: int = 0) -> Ticket:
        moves = self.positions.setdefault(name, [])

        def start() -> None:
            self.started.append(name)
            self.running.append(ticket)

        def is_warm() -> bool:
            return name in self.warm

        ticket = Ticket(slots, client or name, start, moves.append, is_warm, priority)
        self.admission.check(slots, retry_after_s=lambda: 7)
        self.admission.join(ticket)
        return ticket

    def finish_oldest(self) -> None:
        """End the request that has run longest."""
        ticket = self.running.pop(0)
        for _ in range(ticket.slots):
            self.admission.release(ticket)

    def finish_all(self) -> None:
        while self.running:
            self.finish_oldest()


def test_who_fits_starts_and_the_rest_wait_in_order_and_know_their_place() -> None:
    queue = Queue(slots=1)
    for name in "abc":
        queue.join(name)
    assert queue.started == ["a"]
    assert queue.positions == {"a": [], "b": [0], "c": [1]}
    queue.finish_oldest()
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
    queue.finish_oldest()
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
    queue.finish_all()
    assert queue.started == ["many 0", "one", "many 1", "many 2", "many 3"]


def test_a_request_for_many_slots_is_not_starved_by_small_ones() -> None:
    queue = Queue(slots=2)
    queue.join("a")
    queue.join("wide", slots=2)
    queue.join("small")
    assert queue.started == ["a"], "a slot is free, but it is kept for the one in front"
    queue.finish_oldest()
    assert queue.started == ["a", "wide"]


def test_a_client_that_comes_back_while_others_wait_is_charged_for_what_it_had() -> None:
    queue = Queue(slots=4)
    queue.join("wide 0", client="wide", slots=4)
    for number in range(4):
        queue.join(f"small {number}", client="small", slots=2)
    queue.finish_oldest()  # wide has nothing here now, small runs twice and waits twice
    queue.join("wide 1", client="wide", slots=4)
    queue.finish_all()
    assert queue.started == ["wide 0", "small 0", "small 1", "small 2", "wide 1", "small 3"]


def test_a_place_given_up_counts_for_nothing() -> None:
    queue = Queue(slots=1)
    queue.join("running")
    for ticket in [queue.join(f"gone {number}", client="fickle") for number in range(9)]:
        queue.admission.leave(ticket)
    queue.join("first", client="fickle")
    queue.join("second")
    queue.finish_all()
    assert queue.started == ["running", "first", "second"]


def test_who_waits_behind_one_that_leaves_takes_its_turn() -> None:
    queue = Queue(slots=1)
    queue.join("running")
    leaving = queue.join("a 0", client="a")
    queue.join("a 1", client="a")
    queue.join("b 0", client="b")
    queue.join("b 1", client="b")
    queue.admission.leave(leaving)
    assert queue.positions == {"running": [], "a 0": [0], "a 1": [1, 2, 0], "b 0": [1], "b 1": [3, 2]}
    queue.finish_all()
    assert queue.started == ["running", "a 1", "b 0", "b 1"]


def test_priority_orders_the_requests_of_one_client_and_nobody_elses() -> None:
    queue = Queue(slots=1)
    queue.join("running")
    queue.join("late", client="a", priority=5)
    queue.join("other 0", client="other")
    queue.join("other 1", client="other")
    queue.join("usual", client="a")
    queue.join("urgent", client="a", priority=-5)
    assert [ticket.priority for ticket in queue.admission.waiting] == [0, -5, 0, 0, 5]
    queue.finish_all()
    assert queue.started == ["running", "other 0", "urgent", "other 1", "usual", "late"]


def test_callbacks_may_give_up_their_own_ticket() -> None:
    """As a full mailbox does: it is told something, overflows, and its request leaves at once."""
    queue = Queue(slots=1)
    queue.join("running")

    def leaves_when_told(name: str) -> Ticket:
        def moved(_: int) -> None:
            queue.admission.leave(ticket)

        ticket = Ticket(1, name, start=lambda: None, moved=moved)
        return ticket

    for name in "ab":
        queue.admission.join(leaves_when_told(name))
    assert queue.admission.waiting == ()

    def fails_at_once() -> None:
        queue.admission.release(brief)

    brief = Ticket(1, "brief", start=fails_at_once, moved=lambda _: None)
    queue.admission.join(brief)
    queue.join("last")
    queue.finish_all()
    assert queue.started == ["running", "last"]
    assert queue.admission.is_idle


# What is remembered, and what it costs


def test_clients_that_never_queued_leave_nothing_behind() -> None:
    queue = Queue(slots=4)
    for number in range(3000):
        queue.join(f"client {number}")
        queue.finish_oldest()
    assert queue.admission.remembered_clients == 0


@pytest.mark.parametrize("queued", [1, 5])
def test_clients_without_number_beside_a_queue_that_never_empties(queued: int) -> None:
    queue = Queue(slots=2, queue_limit=5)
    for number in range(queued + 2):
        queue.join(f"early {number}")
    for number in range(3000):
        queue.finish_oldest()
        queue.join(f"client {number}")
        assert queue.admission.remembered_clients <= 2 * (2 + 5)
    queue.finish_all()
    assert queue.admission.remembered_clients == 0


def operations(action: Callable[[], object]) -> int:
    """How many of Python's instructions `action` executes inside the queue."""
    executed = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal executed
        if frame.f_code.co_filename != module.__file__:
            return None
        frame.f_trace_opcodes = True
        executed += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return executed


@pytest.mark.parametrize("waiting", [0, 1])
def test_a_request_costs_the_same_however_many_clients_there_have_been(waiting: int) -> None:
    queue = Queue(slots=2)
    queue.join("runs on", slots=2 if waiting else 1)
    for number in range(waiting):
        queue.join(f"waits {number}", slots=2)

    def come_and_go(name: str) -> None:
        ticket = queue.join(name)
        queue.admission.leave(ticket)
        if not waiting:
            queue.running.remove(ticket)
            queue.admission.release(ticket)

    costs = Counter[int]()
    for number in range(40_000):
        if number % 10_000 < 100:
            costs[operations(lambda name=f"client {number}": come_and_go(name))] += 1  # type: ignore[misc]
        else:
            come_and_go(f"client {number}")
    assert len(costs) == 1, costs


def test_who_does_not_move_costs_nothing() -> None:
    def cost_of_the_last(waiting: int) -> int:
        queue = Queue(slots=1)
        for number in range(waiting):
            queue.join(f"client {number}")
        return operations(lambda: queue.admission.leave(queue.join("last")))

    assert cost_of_the_last(80) < 2 * cost_of_the_last(10)


# Whatever happens


Requests = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 3), st.integers(-1, 1), st.booleans(), st.booleans()),
    max_size=30,
)


@given(Requests)
def test_everybody_is_served_once_and_all_permits_return(
    requests: list[tuple[str, int, int, bool, bool]],
) -> None:
    queue = Queue(slots=3)
    expected = []
    tickets = []
    for number, (client, slots, priority, leaves, is_warm) in enumerate(requests):
        if is_warm:
            queue.warm.add(str(number))
        ticket = queue.join(str(number), client, slots, priority)
        tickets.append(ticket)
        if leaves and ticket not in queue.running:
            queue.admission.leave(ticket)
        else:
            expected.append(str(number))
        assert sum(ticket.slots for ticket in queue.running) + queue.admission.free_slots == 3
    while queue.running:
        places = [ticket.position for ticket in queue.admission.waiting]
        assert places == list(range(len(places)))
        queue.finish_oldest()
    assert sorted(queue.started) == sorted(expected)
    assert all(ticket.overtaken <= OVERTAKES for ticket in tickets)
    assert queue.admission.is_idle
    assert queue.admission.remembered_clients == 0


Arrivals = st.lists(st.sampled_from(["flood", "other", "third", "finish", "leave"]), max_size=60)


@given(st.integers(1, 4), Arrivals, Arrivals, st.booleans())
def test_fifty_requests_of_one_client_delay_anothers_first_by_one_turn(
    slots: int, before: list[str], after: list[str], is_warm: bool
) -> None:
    """Those of the client that floods, and others, may have prompts that are cached."""
    queue = Queue(slots, queue_limit=1000)
    joined = 0

    def happens(what: str) -> None:
        nonlocal joined
        if what == "finish":
            if queue.running:
                queue.finish_oldest()
        elif what == "leave":
            if queue.admission.waiting:
                queue.admission.leave(queue.admission.waiting[len(queue.admission.waiting) // 2])
        else:
            joined += 1
            if is_warm and joined % 3:
                queue.warm.add(f"{what} {joined}")
            queue.join(f"{what} {joined}", client=what)

    for what in before:
        happens(what)
    for _ in range(50):
        happens("flood")
    started_before = len(queue.started)
    first = queue.join("first", client="newcomer")
    for what in after:
        if what != "leave":
            happens(what)
    while "first" not in queue.started:
        queue.finish_oldest()
    overtaken = queue.started[started_before : queue.started.index("first")]
    by_client = Counter(name.split()[0] for name in overtaken)
    assert not first.is_waiting
    assert all(turns <= 1 for turns in by_client.values()), overtaken


def test_who_is_announced_has_a_place_and_gives_it_up() -> None:
    queue = Queue(slots=2, queue_limit=1)
    tickets = [Ticket(slots, "", lambda: None, lambda position: None) for slots in (1, 1, 2)]
    for ticket in tickets:  # two that will start, and one that will wait
        queue.admission.check(ticket.slots, retry_after_s=lambda: 7)
        queue.admission.announce(ticket)
    with pytest.raises(QueueFull):
        queue.admission.check(1, retry_after_s=lambda: 7)
    queue.admission.leave(tickets[0])
    with pytest.raises(QueueFull):
        queue.admission.check(1, retry_after_s=lambda: 7)  # the one for two slots has no room before this one
    queue.admission.leave(tickets[2])
    queue.admission.check(1, retry_after_s=lambda: 7)
    assert not queue.admission.is_idle
    queue.admission.leave(tickets[1])
    assert queue.admission.is_idle


def test_whose_prompt_is_cached_goes_first_but_nobody_is_overtaken_for_ever() -> None:
    queue = Queue(slots=1)
    queue.join("first", client="x")
    queue.join("cold", client="x")
    for number in range(2 * OVERTAKES):
        queue.warm.add(f"warm{number}")
        queue.join(f"warm{number}", client="x")
    queue.finish_all()
    assert queue.started.index("cold") == 1 + OVERTAKES


def test_a_cached_prompt_is_nothing_to_other_clients() -> None:
    """Two clients, of whom one has cached prompts only: each gets every second turn, as ever."""
    queue = Queue(slots=1)
    queue.join("first", client="x")
    for number in range(6):
        queue.warm.add(f"warm{number}")
        queue.join(f"cold{number}", client="a")
        queue.join(f"warm{number}", client="b")
    queue.finish_all()
    assert [name[:4] for name in queue.started[1:]] == ["cold", "warm"] * 6


def test_within_a_client_a_cached_prompt_goes_before_what_came_before_it() -> None:
    queue = Queue(slots=1)
    for name in ("first", "a", "b", "c"):
        queue.join(name, client="x")
    queue.warm.add("c")
    queue.finish_all()
    assert queue.started == ["first", "c", "a", "b"]


def test_a_cached_prompt_goes_before_none_that_its_client_wants_first() -> None:
    queue = Queue(slots=1)
    queue.join("first", client="x")
    queue.join("urgent", client="x", priority=-1)
    queue.join("usual", client="x")
    queue.warm.add("usual")
    queue.finish_all()
    assert queue.started == ["first", "urgent", "usual"]


def test_a_cached_prompt_that_needs_more_slots_than_are_free_waits_for_its_place() -> None:
    queue = Queue(slots=2)
    queue.join("one", client="x")
    queue.join("other", client="x")
    queue.join("cold", client="x")
    queue.join("wide", client="x", slots=2)
    queue.warm.add("wide")
    queue.finish_oldest()
    assert queue.started == ["one", "other", "cold"]


def test_more_slots_start_those_who_wait_and_fewer_end_nobody() -> None:
    queue = Queue(slots=1)
    for name in "abcd":
        queue.join(name)
    queue.admission.resize(3)
    assert queue.started == ["a", "b", "c"]
    queue.admission.resize(1)
    assert queue.admission.free_slots == -2
    queue.finish_oldest()
    queue.finish_oldest()
    assert queue.started == ["a", "b", "c"], "as many run as there are slots"
    queue.finish_oldest()
    assert queue.started == ["a", "b", "c", "d"]
    queue.finish_oldest()
    assert queue.admission.is_idle


def test_with_no_slot_everybody_waits_until_there_is_one() -> None:
    queue = Queue(slots=0)
    queue.join("a")
    assert queue.positions == {"a": [0]}
    queue.admission.resize(1)
    assert queue.started == ["a"]
