"""The table of states, drawn at random: time is never lost and never counted twice."""

from hypothesis import given
from hypothesis import strategies as st

from corral.books.life import Happening, Life


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


HAPPENINGS = st.sampled_from([what for what in Happening if what is not Happening.RELEASED])


@given(st.lists(st.tuples(HAPPENINGS, st.integers(0, 8))))
def test_whatever_happens_the_times_in_the_states_add_up(happenings: list[tuple[Happening, int]]) -> None:
    clock = Clock()
    life = Life(2, clock)
    over_s: float | None = None
    for what, passed in happenings:
        clock.now_s += passed
        before = life.engine_state
        moved = life.happened(what)
        assert moved is (life.engine_state != before)
        if what is Happening.OVER and over_s is None:
            over_s = clock.now_s
    expected_s = (clock.now_s if over_s is None else over_s) - 100.0
    assert life.total_s == sum(life.spent_s().values()) == expected_s


def test_states_follow_one_another_and_never_go_back() -> None:
    life = Life(1, Clock())
    assert not life.happened(Happening.ADMITTED), "it has no prompt"
    assert not life.happened(Happening.FIRST_TOKEN), "it has no slot"
    for what, state in (
        (Happening.PREPARED, "queued"),
        (Happening.ADMITTED, "prefill"),
        (Happening.FIRST_TOKEN, "decode"),
        (Happening.ENGINE_ENDED, "write"),
    ):
        assert life.happened(what)
        assert life.engine_state == state
        assert not life.happened(what), "a second one changes nothing"
    assert not life.happened(Happening.ADMITTED)


def test_a_write_that_waits_shows_in_the_time_and_not_in_the_engines_state() -> None:
    clock = Clock()
    life = Life(2, clock)
    life.happened(Happening.PREPARED)
    life.happened(Happening.ADMITTED)
    life.happened(Happening.WRITE_BEGAN)
    clock.now_s += 2
    assert (life.state, life.engine_state) == ("write", "prefill")
    life.happened(Happening.WRITE_TAKEN)
    clock.now_s += 1
    assert life.spent_s() == {"preparing": 0, "queued": 0, "prefill": 1, "decode": 0, "write": 2}


@given(st.permutations([Happening.RELEASED, Happening.RELEASED, Happening.DELIVERED, Happening.OVER]))
def test_it_is_settled_with_the_last_release_or_the_end_whichever_comes_later(order: list[Happening]) -> None:
    life = Life(2, Clock())
    life.happened(Happening.ADMITTED)
    left = {Happening.RELEASED: 2, Happening.OVER: 1, Happening.DELIVERED: 0}
    for what in order:
        life.happened(what)
        left[what] -= 1
        assert life.is_settled is (left[Happening.RELEASED] == left[Happening.OVER] == 0)
    assert life.is_delivered is (order.index(Happening.DELIVERED) < order.index(Happening.OVER))


def test_what_never_had_a_slot_is_settled_when_it_is_over() -> None:
    life = Life(3, Clock())
    life.happened(Happening.ENGINE_ENDED)
    assert not life.is_settled
    life.happened(Happening.OVER)
    assert life.is_settled
