"""When a replica is given up, and when it is tried again."""

from corral.engine.upstream.breaker import FAILURES, FIRST_S, LONGEST_S, Breaker


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_failures_in_a_row_open_it_and_a_success_between_does_not() -> None:
    breaker = Breaker(Clock())
    for _ in range(5):
        assert not any(breaker.failed("x") for _ in range(FAILURES - 1))
        breaker.succeeded()
    opened = [breaker.failed("it broke") for _ in range(FAILURES)]
    assert opened == [False] * (FAILURES - 1) + [True]
    assert not breaker.is_closed
    assert breaker.reason == "it broke"


def test_each_vain_try_doubles_the_wait_up_to_a_limit() -> None:
    breaker = Breaker(Clock())
    waits = []
    for _ in range(8):
        breaker.open("x")
        waits.append(breaker.retry_s - Clock.now_s)
        breaker.half_open()
    assert waits[:3] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert waits[-1] == LONGEST_S
    assert breaker.openings == 1
    breaker.close()
    breaker.succeeded()
    breaker.open("again")
    assert breaker.retry_s - Clock.now_s == FIRST_S
    assert breaker.openings == 2


def test_one_that_answers_us_and_fails_clients_is_left_alone_for_ever_longer() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    waits_s = []
    for _ in range(7):
        while not breaker.failed("broke"):
            pass
        waits_s.append(breaker.retry_s - clock.now_s)
        clock.now_s = breaker.retry_s
        breaker.half_open()
        breaker.close()
    assert waits_s == [1, 2, 4, 8, 16, 30, 30]
    breaker.succeeded()
    breaker.open("it is gone")
    assert breaker.retry_s - clock.now_s == 1
