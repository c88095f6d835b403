import pytest
import trio

from corral.serving.mailbox import Mailbox


async def test_what_waits_is_received_at_once_and_in_order() -> None:
    mailbox: Mailbox[int] = Mailbox(10)
    for item in range(5):
        assert mailbox.push_nowait(item)
    assert mailbox.waiting == 5
    assert await mailbox.receive_all() == [0, 1, 2, 3, 4]
    assert mailbox.waiting == 0


async def test_what_has_no_room_changes_nothing() -> None:
    mailbox: Mailbox[int] = Mailbox(2)
    assert [mailbox.push_nowait(item) for item in range(4)] == [True, True, False, False]
    assert await mailbox.receive_all() == [0, 1]
    assert mailbox.push_nowait(9)


async def test_the_bound_in_bytes_counts_what_waits() -> None:
    mailbox: Mailbox[str] = Mailbox(100, max_bytes=10)
    for _ in range(3):
        assert mailbox.push_nowait("item", 10)
        assert await mailbox.receive_all() == ["item"]
    assert mailbox.push_nowait("item", 6)
    assert not mailbox.push_nowait("item", 6)
    mailbox.clear()
    assert mailbox.push_nowait("another", 10)
    assert await mailbox.receive_all() == ["another"]


async def test_after_closing_what_waits_is_received_and_then_the_end() -> None:
    mailbox: Mailbox[int] = Mailbox(2)
    mailbox.push_nowait(1)
    mailbox.close()
    assert await mailbox.receive_all() == [1]
    with pytest.raises(trio.EndOfChannel):
        await mailbox.receive_all()


async def test_cancelling_a_receiver_loses_nothing() -> None:
    mailbox: Mailbox[int] = Mailbox(2)
    with trio.CancelScope() as scope:
        mailbox.push_nowait(1)
        scope.cancel()
        await mailbox.receive_all()
    assert scope.cancelled_caught
    assert await mailbox.receive_all() == [1]
