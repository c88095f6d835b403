import trio

from corral.serving.subscription import Subscription


async def test_what_waits_is_received_at_once_and_in_order() -> None:
    subscription: Subscription[int] = Subscription(10, lambda: None)
    for item in range(5):
        subscription.push_nowait(item)
    assert await subscription.receive_waiting() == [0, 1, 2, 3, 4]


async def test_overflow_is_told_once_and_nothing_comes_after_the_gap() -> None:
    overflows: list[str] = []
    subscription: Subscription[int] = Subscription(2, lambda: overflows.append("full"))
    for item in range(5):
        subscription.push_nowait(item)
    assert overflows == ["full"]
    assert await subscription.receive_waiting() == [0, 1]
    subscription.push_nowait(9)
    with trio.move_on_after(0) as scope:
        await subscription.receive_waiting()
    assert scope.cancelled_caught


async def test_the_bound_in_bytes_counts_what_waits() -> None:
    overflows: list[str] = []
    subscription: Subscription[str] = Subscription(100, lambda: overflows.append("full"), max_bytes=10)
    for _ in range(3):
        subscription.push_nowait("item", 10)
        assert await subscription.receive_waiting() == ["item"]
    subscription.push_nowait("item", 6)
    subscription.push_nowait("item", 6)
    assert overflows == ["full"]
    assert await subscription.receive_waiting() == ["item"]
